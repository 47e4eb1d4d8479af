"""From rows to rates: tally, estimates, exposure, and the summary's record."""
