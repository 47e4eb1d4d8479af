"""Find the tolerance that a detector should use, from the rows of a finished campaign."""

import testbed

spec = {
    "name": "tolerance",
    "data": {"name": "digits"},
    "model": {"preset": "digits", "recipe": "digits", "training": {"epochs": 10, "learning_rate": 0.01}},
    "tiers": {"edges": [0.5, 1.0], "images": [3, 3]},
    "tolerance": {"atol": 1e-4, "rtol": 1e-4},
    "faults": [{"target": "model", "where": "activation", "ops": ["flip"], "bits": [22, 28, 30, 31]}],
}
testbed.run(spec, "runs/05_tolerance_sweep").close()

# Noise of fault-free engines: the same model at batch 1. Below it, a tolerance raises false alarms.
sweep = testbed.sweep_tolerances("runs/05_tolerance_sweep", noise=["ort-cpu@1"])
print(sweep.false_alarms.head().to_string(index=False))
print(f"{len(sweep.grid):,} combinations of tier and tolerance; the first:")
print(sweep.grid.head().T.to_string())
