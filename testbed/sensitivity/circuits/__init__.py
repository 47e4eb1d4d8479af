"""Circuits: the parts of a model, and how much its output needs each of them."""
