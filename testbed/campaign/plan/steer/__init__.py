"""What steers the draws of an adaptive campaign beside its rows: guesses of effects, classes of golden values."""
