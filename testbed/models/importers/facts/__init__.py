"""What is known, stated or inferred of a model that is imported."""
