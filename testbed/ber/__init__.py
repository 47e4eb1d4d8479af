"""Accuracy against the bit-error rate of the weights."""
