"""Commands that make or change a model: train, import, export, prune, bench."""
