"""Evaluation of faults inside the attention subnetwork, no further than each one reaches."""
