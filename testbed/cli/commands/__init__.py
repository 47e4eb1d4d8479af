"""The commands, grouped as the help lists them."""
