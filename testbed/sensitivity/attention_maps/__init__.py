"""Where a model looks: rollout, every head's map, attention distance, and the same pictures of a faulty run."""
