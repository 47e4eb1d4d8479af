"""Run a small campaign, print its rates, and inject one fault by hand."""

import testbed

spec = testbed.load_spec(
    {
        "name": "first",
        "data": {"name": "digits"},
        "model": {"preset": "digits", "recipe": "digits", "training": {"epochs": 10, "learning_rate": 0.01}},
        "tiers": {"edges": [0.5, 1.0], "images": [3, 3]},
        "tolerance": {"atol": 1e-4, "rtol": 1e-4},
        "faults": [
            {"target": "model", "where": "activation", "ops": ["flip"], "bits": [12, 22, 28, 30, 31], "per_stratum": 2},
            {"target": "model", "where": "weight", "ops": ["flip"], "bits": [22, 30, 31]},
        ],
    }
)
plan = testbed.plan(spec, by="block")
print(f"{plan.totals.drawn.faults:,} of {plan.totals.population:,} possible faults will be run")

with testbed.run(spec, "runs/01_first_campaign", progress=testbed.ProgressBar()) as run:
    print(f"test accuracy {100 * run.summary.model.test_accuracy:.1f} % without faults")
    print(run.rates(by="block")[["where", "block", "estimate", "low", "high", "n"]].round(4).to_string(index=False))

    hit = run.inject("block.1.attn.softmax", index=5, bit=30, image=run.image_ids[0])
    print(f"{hit.site}[{hit.index}], bit {hit.bit}: {hit.golden_value:.4g} -> {hit.faulty_value:.4g}, {hit.outcome}")
    print("page:", run.path / "report.html")
