"""From stored pixels to model input, and how preprocessing is stated."""
