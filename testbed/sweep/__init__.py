"""Tolerance sweeps over finished campaigns."""
