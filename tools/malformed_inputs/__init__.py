"""Inputs that are damaged, absurd or hostile, and what the command line does with them."""
