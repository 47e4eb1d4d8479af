"""Rates from rows: tally, estimates, exposure, and the summary's record."""
