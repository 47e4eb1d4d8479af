"""The checks of the support matrix, each on what a campaign runs, held against something made without it."""
