"""The files of instrumented engines, made from a spec: model, golden, tiers, twins, tuning."""
