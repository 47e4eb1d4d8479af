"""The order of classes: which output stands for which class."""
