"""The rows that the lens takes, against the campaign's own table."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.campaign.run import Run
from testbed.core.errors import UsageError
from testbed.sensitivity.campaign_lens.rows import BEHIND, LensRows, entry_state, read_lens_rows


@pytest.mark.parametrize(
    ("site", "state"),
    [
        ("patch_embed", 0),
        ("pos_embed", 0),
        ("embed", 0),
        ("block.0.attn.q", 1),
        ("block.11.mlp.fc1.weight", 12),
        ("norm", BEHIND),
        ("norm.weight", BEHIND),
        ("head.bias", BEHIND),
    ],
)
def test_the_state_that_a_fault_first_reaches(site: str, state: int) -> None:
    assert entry_state(site) == state


def test_rows_and_weights_are_the_campaigns(opened: Run, rows_of_models: list[LensRows]) -> None:
    table = opened.results
    for rows in rows_of_models:
        own = table[
            (table["target"] == "model") & (table["where"] == rows.model.where) & (table["op"] == rows.model.op)
        ]
        assert np.array_equal(rows.fault_id, own["fault_id"])
        assert rows.weight == pytest.approx(own["weight"].to_numpy())
        assert [opened.image_ids[image] for image in rows.image] == own["image_id"].tolist()
    assert [(rows.model.where, rows.model.op) for rows in rows_of_models][:2] == [
        ("activation", "flip"),
        ("activation", "stuck0"),
    ]


def test_only_what_was_asked_for(opened: Run) -> None:
    (rows,) = read_lens_rows(opened, where="weight", op="random")
    assert (rows.model.where, rows.model.op) == ("weight", "random")
    with pytest.raises(UsageError, match="no stored faults of op burst in activations of the whole model"):
        read_lens_rows(opened, where="activation", op="burst")
