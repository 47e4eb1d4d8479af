"""A stored fault in the eager model: its bits at the site, and the campaign's own prediction behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from testbed.campaign.run import Run
from testbed.core.errors import UsageError
from testbed.golden.arrays import read_array
from testbed.models.runs import open_model_run
from testbed.models.vit import ViT, taps
from testbed.sensitivity.stored_fault import StoredFault, as_deployed, faulty_states, read_stored_fault
from tests.support.records import records

SAMPLED = 25


def rows_of(folder: Path, where: str) -> pd.DataFrame:
    filters = [("target", "=", "model"), ("where", "=", where)]
    rows: pd.DataFrame = pq.read_table(folder / "results.parquet", filters=filters).to_pandas()
    return rows


@pytest.fixture(scope="module")
def model(digits_run: Path) -> ViT:
    return as_deployed(open_model_run(digits_run).model)


def faulty_logits(model: ViT, run: Run, fault: StoredFault) -> np.ndarray:
    inputs = read_array(run.folder / "inputs/model.npy")
    image = torch.from_numpy(np.array(inputs[run.workplace.images.row(fault.image_id)][None]))
    with faulty_states(model, fault) as recorder, torch.inference_mode():
        tokens = recorder.embed(image)
        for states in recorder.blocks(tokens):
            tokens = states.residual_out
        logits: np.ndarray = recorder.classify(tokens)[0].numpy()
    return logits


@pytest.mark.parametrize("where", ["activation", "weight"])
def test_the_faulty_model_says_what_the_engine_said(digits_run: Path, model: ViT, where: str) -> None:
    rows = rows_of(digits_run, where).groupby("fault_id", sort=False).sample(1, random_state=0)
    before = [parameter.clone() for parameter in model.parameters()]
    differ = 0
    with Run(digits_run) as run:
        for row in records(rows.sample(SAMPLED, random_state=3)):
            fault = read_stored_fault(run, row.fault_id, row.image_id)
            logits = faulty_logits(model, run, fault)
            assert fault.stored_outcome == row.outcome
            if np.isfinite(row.logits).all() and np.isfinite(logits).all():
                scale = 1 + np.abs(row.logits).max()
                differ += bool(np.abs(logits - row.logits).max() > 1e-3 * scale)
            else:
                differ += bool((np.isfinite(row.logits) != np.isfinite(logits)).any())
    assert differ <= 1  # where a value is at a limit of the format, the two may round to different sides of it
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_very_bits_stand_at_the_site(digits_run: Path, model: ViT) -> None:
    rows = rows_of(digits_run, "activation").sample(40, random_state=5)
    seen: dict[str, torch.Tensor] = {}
    with Run(digits_run) as run:
        for row in records(rows):
            fault = read_stored_fault(run, row.fault_id)
            words = fault.words[0]
            assert words.golden is not None
            assert words.faulty is not None
            assert (int(words.golden[0]), int(words.faulty[0])) == (row.golden_word, row.faulty_word)
            with faulty_states(model, fault) as recorder, torch.inference_mode():
                handle = taps(model)[fault.site].register_forward_hook(
                    lambda tap, _inputs, output: seen.__setitem__(tap.site, output.clone())
                )
                tokens = recorder.embed(torch.zeros(1, 1, 8, 8))
                for states in recorder.blocks(tokens):
                    tokens = states.residual_out
                recorder.classify(tokens)
                handle.remove()
            held = seen[fault.site].reshape(-1).view(torch.int32)[words.index[0]]
            assert int(held) & 0xFFFFFFFF == row.faulty_word


def test_a_weight_fault_is_of_the_image_that_is_named(digits_run: Path) -> None:
    weight = int(rows_of(digits_run, "weight").fault_id.iloc[0])
    with Run(digits_run) as run:
        assert read_stored_fault(run, weight).image_id == run.image_ids[0]
        assert read_stored_fault(run, weight, run.image_ids[3]).image_id == run.image_ids[3]
        activation = rows_of(digits_run, "activation").iloc[0]
        other = next(image for image in run.image_ids if image != activation.image_id)
        with pytest.raises(UsageError, match="it has no other image"):
            read_stored_fault(run, int(activation.fault_id), other)
        with pytest.raises(UsageError, match="there is no fault"):
            read_stored_fault(run, 10**9)
        with pytest.raises(UsageError, match="is not one of the campaign's"):
            read_stored_fault(run, weight, "digits/9999")


def test_a_fault_acts_on_one_image_only(digits_run: Path, model: ViT) -> None:
    with Run(digits_run) as run:
        fault = read_stored_fault(run, int(rows_of(digits_run, "activation").fault_id.iloc[0]))
    with (
        faulty_states(model, fault) as recorder,
        torch.inference_mode(),
        pytest.raises(UsageError, match="one image"),
    ):
        for _ in recorder.blocks(recorder.embed(torch.zeros(2, 1, 8, 8))):
            pass
