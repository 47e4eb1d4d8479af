"""Checks: relations between sums of a graph's tensors that hold without a fault, and bounds on how far they are off."""
