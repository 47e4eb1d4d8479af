"""Statistics of adaptive sampling: allocation, sequential intervals, alpha spending."""
