"""Commands of golden outputs: record, subset, tiers."""
