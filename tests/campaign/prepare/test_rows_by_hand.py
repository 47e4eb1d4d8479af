"""Rows of campaigns on files in other number formats, against the same file with its graph changed by hand.

Oracle: the campaign's plain file, in which the faulty tensor is given from outside, or the faulty weight is stored; run by the
same engine library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from testbed.campaign.run import Run
from testbed.campaign.summary.record import Summary
from testbed.core.site import Site
from testbed.data import load
from testbed.engines.runner import EngineRequest, open_engine
from testbed.instrument.ports.insertion import ELEMENTS
from tests.support.file_forms import as_bfloat16
from tests.support.foreign_campaigns import Finished, changed, run
from tests.support.quantised_files import QUANTISED, quantised
from tests.support.records import records

ACTIVATIONS = ["embed", "block.0.norm1", "block.0.attn.softmax", "block.1.mlp.fc1", "block.1.mlp.fc2"]
WEIGHTS = ["block.0.attn.qkv.weight", "block.1.mlp.fc2.weight"]


def sections(bits: list[int]) -> list[dict[str, Any]]:
    shared = {"target": "model", "bits": bits, "per_stratum": 2, "ops": ["flip"]}
    return [
        {**shared, "where": "activation", "sites": ACTIVATIONS},
        {**shared, "where": "weight", "sites": WEIGHTS},
    ]


class ByHand:
    """The plain file of a campaign, changed by hand and run on as many copies of an image as the campaign's batch."""

    def __init__(self, folder: Path, summary: Summary, precision: str) -> None:
        self._plain = onnx.load(folder / "model.onnx")
        self._engine, self._batch, self._precision = summary.engine.backend, summary.engine.batch, precision
        test = load("digits", image=16, seed=3).test
        self._images = {name: test.batch([test.position(name)]) for name in test.ids}

    def activation(self, site: Site, row: Any) -> tuple[NDArray, NDArray]:
        """(the faulty word, logits)."""
        known = self._copy()
        if site.tensor not in {value.name for value in known.graph.output}:
            known.graph.output.append(helper.make_tensor_value_info(site.tensor, ELEMENTS[site.format_name], None))
        value = np.array(self._run(known, row.image_id)[site.tensor])
        word = self._struck(value.reshape(self._batch, -1)[0], site, row)
        value.reshape(self._batch, -1)[:, row.index] = word
        given = self._copy()
        for node in given.graph.node:
            node.output[:] = [f"{name}/before" if name == site.tensor else name for name in node.output]
        shape = [None] * value.ndim
        given.graph.input.append(helper.make_tensor_value_info(site.tensor, ELEMENTS[site.format_name], shape))
        return word, self._run(given, row.image_id, {site.tensor: value})[self._plain.graph.output[0].name][0]

    def weight(self, site: Site, row: Any) -> tuple[NDArray, NDArray]:
        stored = self._copy()
        tensor = next(tensor for tensor in stored.graph.initializer if tensor.name == site.tensor)
        value = numpy_helper.to_array(tensor)
        canonical = np.array(value.T if site.transposed else value, order="C")
        word = self._struck(canonical.reshape(-1), site, row)
        canonical.reshape(-1)[row.index] = word
        tensor.CopyFrom(numpy_helper.from_array(canonical.T if site.transposed else canonical, site.tensor))
        return word, self._run(stored, row.image_id, mutable_weights=True)[self._plain.graph.output[0].name][0]

    def _struck(self, values: NDArray, site: Site, row: Any) -> NDArray:
        words = values[row.index : row.index + 1].copy().view(site.format.word)
        masks = (np.uint32(mask).astype(words.dtype) for mask in (row.and_mask, row.or_mask, row.xor_mask))
        keep, put, turn = masks
        return ((words & keep | put) ^ turn).view(values.dtype)[0]

    def _copy(self) -> ModelProto:
        proto = ModelProto()
        proto.CopyFrom(self._plain)
        return proto

    def _run(
        self, proto: ModelProto, image: str, given: dict[str, NDArray] | None = None, mutable_weights: bool = False
    ) -> dict[str, NDArray]:
        request = EngineRequest.of_bytes(
            proto.SerializeToString(),
            "by hand",
            precision=self._precision,
            threads=1,
            max_batch=self._batch,
            mutable_weights=mutable_weights,
        )
        images = np.repeat(self._images[image], self._batch, axis=0)
        with open_engine(self._engine, request) as engine:
            return dict(engine.run({proto.graph.input[0].name: images, **(given or {})}))


def check_rows(finished: Finished, folder: Path, file: Path, precision: str, bits: list[int], **tables: Any) -> None:
    tables = {"faults": sections(bits), "gates": {"zero_fault_rows": 32, "drift_max_abs": 0.5}, **tables}
    summary = run(changed(finished, model={"onnx": str(file)}, **tables), folder)
    by_hand = ByHand(folder, summary, precision)
    with Run(folder) as opened:
        rows, table = opened.results, opened.sites()
    assert set(rows["site"].astype(str)) == {*ACTIVATIONS, *WEIGHTS}
    for row in records(rows.groupby(["site", "bit"], observed=True).head(1)):
        change = by_hand.weight if row.where == "weight" else by_hand.activation
        word, logits = change(table[str(row.site)], row)
        told = f"{row.site}[{row.index}] bit {row.bit}"
        np.testing.assert_array_equal(np.float32(row.faulty_value), np.asarray(word).astype(np.float32), err_msg=told)
        np.testing.assert_array_equal(np.array(row.logits, np.float32), logits, err_msg=told)


@pytest.mark.parametrize("kind", QUANTISED)
def test_faults_in_quantised_files(kind: str, finished: Finished, tmp_path: Path) -> None:
    quantised(kind, finished.file, tmp_path / "vit.onnx")
    check_rows(finished, tmp_path / "run", tmp_path / "vit.onnx", "int8", [1, 6], engine={"precision": "int8"})


def test_faults_in_bfloat16_files(finished: Finished, tmp_path: Path) -> None:
    """By PyTorch, whose operators are those of the file one by one; OpenVINO rounds where it fuses."""
    onnx.save(as_bfloat16(onnx.load(finished.file)), tmp_path / "vit.onnx")
    tables = {"engine": {"precision": "bf16", "backend": "torch"}}
    check_rows(finished, tmp_path / "run", tmp_path / "vit.onnx", "bf16", [3, 10, 14], **tables)
