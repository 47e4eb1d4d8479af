"""Draws the README's picture from a finished campaign, and keeps the rates it rests on beside it:

python tools/readme_figure.py runs/digits golden/digits        # figure.png and rates.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def rates(summary: dict[str, Any], by: str, where: str = "activation") -> dict[Any, dict[str, float]]:
    wanted = {"target": "model", "where": where, "op": "flip", "by": by}
    found = [m for m in summary["marginals"] if all(m[k] == v for k, v in wanted.items())]
    return {m["value"]: m["rates"]["sdc1"] for m in found}


def heat_map(axes: Any, summary: dict[str, Any]) -> None:
    by_site = rates(summary, "site")
    blocks = sorted({int(site.split(".")[1]) for site in by_site if site.startswith("block.")})
    names = ["norm1", "attn.q", "attn.k", "attn.v", "attn.scores", "attn.softmax", "attn.context", "attn.proj"]
    names += ["attn.residual", "norm2", "mlp.fc1", "mlp.gelu", "mlp.fc2", "mlp.residual"]
    cells = np.array([[100 * by_site[f"block.{b}.{n}"]["rate"] for b in blocks] for n in names])
    image = axes.imshow(cells, cmap="YlOrRd", vmin=0, aspect="auto")
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(blocks)), [f"block {b}" for b in blocks])
    for (row, column), value in np.ndenumerate(cells):
        dark = value > 0.6 * cells.max()
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_title("predictions changed by one flipped bit of an activation, %", fontsize=9)
    axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)


def bit_chart(axes: Any, summary: dict[str, Any]) -> None:
    for where, colour, label, shift in (
        ("activation", "#b2182b", "activations", -0.15),
        ("weight", "#2166ac", "weights", 0.15),
    ):
        by_bit = rates(summary, "bit", where)
        bits = np.array(sorted(by_bit))
        rate = np.array([100 * by_bit[b]["rate"] for b in bits])
        low = rate - [100 * by_bit[b]["low"] for b in bits]
        high = [100 * by_bit[b]["high"] for b in bits] - rate
        axes.errorbar(
            bits + shift, rate, yerr=[low.clip(0), high.clip(0)], fmt="o", ms=3, lw=1, color=colour, label=label
        )
    axes.axvspan(22.5, 30.5, color="0.92", zorder=0)
    axes.text(26.5, 96, "exponent", ha="center", fontsize=8)
    axes.text(11, 96, "mantissa", ha="center", fontsize=8)
    axes.text(31, 96, "±", ha="center", fontsize=8)
    axes.set(xlim=(32, -1), ylim=(-2, 102), xlabel="flipped bit", ylabel="predictions changed, %")
    axes.set_title("by bit position, with 95 % intervals", fontsize=9)
    axes.legend(loc="center right", fontsize=8, frameon=False)


def reference(summary: dict[str, Any], versions: dict[str, Any]) -> dict[str, Any]:
    """What a later run of the same spec is compared with: settings, gates, and the rates by tier and bit class."""
    kept = (
        "name",
        "schema_version",
        "seed",
        "faults",
        "rows",
        "model",
        "tiers",
        "engine",
        "zero_fault",
        "drift",
        "parity",
        "tolerance",
        "confidence",
        "detector",
        "statement",
    )
    rates = [
        {key: cell[key] for key in ("target", "where", "op", "by", "value", "faults", "n", "rates")}
        for cell in summary["marginals"]
        if cell["by"] in ("all", "tier", "bit_class")
    ]
    return {key: summary[key] for key in kept} | {"versions": versions, "rates": rates}


def main() -> None:
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    summary = json.loads((run / "summary.json").read_text())
    versions = json.loads((run / "manifest.json").read_text())["versions"]
    (out / "rates.json").write_text(json.dumps(reference(summary, versions), indent=1) + "\n")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=(1, 1.3), layout="constrained")
    heat_map(left, summary)
    bit_chart(right, summary)
    figure.savefig(out / "figure.png", dpi=130)


if __name__ == "__main__":
    main()
