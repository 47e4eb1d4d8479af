"""Judging outputs: comparison, confidence, outcomes."""
