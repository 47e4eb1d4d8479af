"""Run faults in rounds, until every block's rate is known to within the margin."""

import testbed

MARGIN = 0.03
spec = {
    "name": "adaptive",
    "data": {"name": "digits"},
    "model": {"preset": "digits", "recipe": "digits", "training": {"epochs": 10, "learning_rate": 0.01}},
    "tiers": {"edges": [0.5, 1.0], "images": [3, 3]},
    "tolerance": {"atol": 1e-4, "rtol": 1e-4},
    "stop": {"margin": MARGIN, "per": "block"},
    "faults": [{"target": "model", "where": "activation", "ops": ["flip"]}],
}
bounds = testbed.plan(spec, by="block").head.adaptive
print(f"uniform sampling would need {bounds.leveugle:,} faults")

with testbed.run(spec, "runs/04_adaptive_stop", progress=testbed.ProgressBar()) as run:
    rates = run.rates(by="block")
    print(f"this campaign ran {run.summary.faults:,}, in {len(run.summary.stop.history)} round(s)")
    print(rates[["block", "estimate", "low", "high", "n"]].round(4).to_string(index=False))
    assert ((rates.high - rates.low) / 2 <= MARGIN).all()
