"""The scores, one module each; `table` has them by name."""
