"""Pruning that ends in a smaller model, and so in a smaller engine."""
