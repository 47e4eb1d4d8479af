"""From a spec to instrumented engines' files: model, golden, tiers, twins, tuning."""
