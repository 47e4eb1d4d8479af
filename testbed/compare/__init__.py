"""Two finished campaigns side by side."""
