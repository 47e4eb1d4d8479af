"""Model input from stored pixels, and how preprocessing is stated."""
