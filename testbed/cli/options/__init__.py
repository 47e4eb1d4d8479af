"""Kinds of option values, and options that several commands share."""
