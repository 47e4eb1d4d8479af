"""The data sets that are built in, a module each."""
