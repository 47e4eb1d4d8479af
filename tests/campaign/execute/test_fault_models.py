"""Campaigns of faults of many words in a compiled engine, through every kind of port, against NumPy: the struck tensor is
computed here, and fed to the rest of the plain graph in its place; struck weights are written into the file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from testbed.campaign.folder.images import named_images
from testbed.campaign.plan.points import points_path
from testbed.campaign.preview.dry_run import dry_run_plan
from testbed.campaign.run import Run
from testbed.campaign.spec.campaign import load_spec, parse_spec
from testbed.core.errors import UsageError
from testbed.core.site import Site, SiteTable
from testbed.engines import native
from testbed.golden.arrays import read_array
from tests.support.campaigns import run_here
from tests.support.comparisons import compared_json
from tests.support.records import records

ACTIVATIONS: list[dict[str, Any]] = [
    {"ops": ["flip"], "bits": [1, 25, 30], "pattern": "bits", "count": 2},
    {"ops": ["flip", "stuck1"], "bits": [22, 23, 24, 25], "pattern": "bits", "count": 3, "adjacent": True},
    {"ops": ["flip"], "bits": [27], "pattern": "burst", "length": 3},
    {"ops": ["flip", "stuck0"], "pattern": "burst", "length": 4, "same_bit": False},
    {"ops": ["flip", "random"], "bits": [24], "pattern": "row"},
    {"ops": ["stuck0"], "bits": [29], "pattern": "column"},
    {"ops": ["random"], "pattern": "tile", "rows": 2, "columns": 3},
    {"ops": ["flip"], "pattern": "tile", "rows": 4, "columns": 2, "same_bit": False},
    {"ops": ["stuck1"], "bits": [26], "scope": "persistent"},
    {"ops": ["flip"], "bits": [23], "pattern": "row", "scope": "persistent"},
]
SEVERAL_SITES: dict[str, Any] = {"ops": ["flip"], "bits": [20, 23, 25], "pattern": "sites", "count": 3}
WEIGHTS: list[dict[str, Any]] = [
    {"ops": ["flip"], "pattern": "bits", "count": 2},
    {"ops": ["flip"], "bits": [26], "pattern": "burst", "length": 3},
    {"ops": ["stuck0"], "bits": [29], "pattern": "row"},
    {"ops": ["flip"], "bits": [24], "pattern": "column"},
    {"ops": ["random"], "pattern": "tile", "rows": 2, "columns": 2},
    {"ops": ["flip"], "bits": [25], "pattern": "sites", "count": 2},
]


def campaign_of(values: dict[str, Any], mechanism: str) -> dict[str, Any]:
    values = copy.deepcopy(values)
    sites = ["*.softmax", "*.attn.q", "*.mlp.fc1", "*.mlp.residual", "head"]
    common = {"target": "model", "where": "activation", "sites": sites, "per_stratum": 3}
    activations = [*ACTIVATIONS, *([SEVERAL_SITES | {"per_stratum": 20}] if mechanism == "op" else [])]
    weights = {"target": "model", "where": "weight", "sites": ["*.fc1.weight", "*.qkv.weight"], "per_stratum": 3}
    values["name"] = f"models-{mechanism}"
    values["engine"] = {"batch": 16, "ports": mechanism}
    values["faults"] = [*({**common, **keys} for keys in activations), *({**weights, **keys} for keys in WEIGHTS)]
    return values


@pytest.fixture(scope="module")
def campaign(tiny_spec: Any, tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Callable[[str], Path]:
    """A finished campaign, by its kind of ports."""

    def finished(mechanism: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / "models" / mechanism
        if not (folder / "summary.json").exists():
            spec = parse_spec(campaign_of(tiny_spec.identity(), mechanism))
            run_here(spec, folder)
        return folder

    return finished


@pytest.fixture(scope="module", params=["gated_replace", "xor", "op"])
def mechanism(request: pytest.FixtureRequest) -> str:
    if request.param == "op" and native.op_library() is None:
        pytest.skip("the ONNX Runtime op was not built")
    return str(request.param)


@pytest.fixture(scope="module")
def finished(mechanism: str, campaign: Callable[[str], Path]) -> Path:
    return campaign(mechanism)


class Oracle:
    """The plain file of a campaign, with some tensors computed by hand."""

    def __init__(self, run: Path) -> None:
        self.plain = onnx.load(str(run / "model.onnx"))
        self.table = SiteTable.load(run / "model.sites.json")
        self.inputs = read_array(run / "inputs" / "model.npy")
        self.images = named_images(run / "tiers.json")
        words = pq.read_table(points_path(run / "faults.parquet")).to_pandas()
        self.words = {fault: part.to_dict("records") for fault, part in words.groupby("fault_id")}
        self._sessions: dict[tuple[str, ...], ort.InferenceSession] = {}

    @cached_property
    def golden(self) -> NDArray[np.float32]:
        return self.run(self.plain, {}, slice(None), ["head"])["head"]

    def words_of(self, row: Any) -> list[dict[str, Any]]:
        return self.words.get(row.fault_id) or [row._asdict()]

    def replaced(self, tensors: tuple[str, ...]) -> ort.InferenceSession:
        """The graph with these tensors as inputs, and what would have been in each as outputs."""
        if tensors not in self._sessions:
            proto = copy.deepcopy(self.plain)
            for node in proto.graph.node:
                node.output[:] = [f"{name}/own" if name in tensors else name for name in node.output]
            kept = [value for value in proto.graph.output if value.name not in tensors]
            del proto.graph.output[:]
            proto.graph.output.extend(kept)
            for site in (site for site in self.table if site.tensor in tensors):
                shape: list[str | int | None] = ["batch", *site.shape]
                proto.graph.input.append(helper.make_tensor_value_info(site.tensor, 1, shape))
                proto.graph.output.append(helper.make_tensor_value_info(f"{site.tensor}/own", 1, shape))
            self._sessions[tensors] = session(proto)
        return self._sessions[tensors]

    def run(self, proto: onnx.ModelProto, feeds: dict[str, NDArray], rows: Any, names: list[str]) -> dict[str, NDArray]:
        found = session(proto).run(names, {"image": self.inputs[rows], **feeds})
        return dict(zip(names, found, strict=True))

    def faulty_activations(self, row: Any, image: int) -> NDArray[np.float32]:
        """Logits of one image. Site after site, each from what the sites before it made of its values."""
        words = self.words_of(row)
        sites = list(dict.fromkeys(self.table[word["site"]] for word in words))
        tensors = tuple(site.tensor for site in sites)
        one = slice(image, image + 1)
        feeds: dict[str, NDArray] = {site.tensor: np.zeros((1, *site.shape), np.float32) for site in sites}
        for site in sites:
            run = self.replaced(tensors)
            (own,) = run.run([f"{site.tensor}/own"], {"image": self.inputs[one], **feeds})
            feeds[site.tensor] = injected(own, [word for word in words if word["site"] == site.name])
        if sites[-1].name == "head":
            return feeds[sites[-1].tensor][0]
        return self.replaced(tensors).run(["head"], {"image": self.inputs[one], **feeds})[0][0]

    def faulty_weights(self, row: Any) -> NDArray[np.float32]:
        """Logits of all images."""
        proto = copy.deepcopy(self.plain)
        for tensor in proto.graph.initializer:
            site = next((site for site in self.table if site.tensor == tensor.name), None)
            mine = [word for word in self.words_of(row) if site and word["site"] == site.name]
            if mine:
                assert isinstance(site, Site)
                stored = numpy_helper.to_array(tensor)
                canonical = stored.T if site.transposed else stored
                faulty = injected(np.ascontiguousarray(canonical)[None], mine)[0]
                tensor.CopyFrom(numpy_helper.from_array(faulty.T if site.transposed else faulty, tensor.name))
        return self.run(proto, {}, slice(None), ["head"])["head"]


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def injected(values: NDArray[np.float32], words: list[dict[str, Any]]) -> NDArray[np.float32]:
    """One row of values with v' = ((v & and) | or) ^ xor at each word, on Python's integers."""
    bits = [int(word) for word in np.ascontiguousarray(values).reshape(-1).view(np.uint32)]
    for word in words:
        index = word["index"]
        bits[index] = ((bits[index] & word["and_mask"]) | word["or_mask"]) ^ word["xor_mask"]
    return np.array(bits, np.uint32).view(np.float32).reshape(values.shape)


def rows_of(run: Path) -> pd.DataFrame:
    return pq.read_table(run / "results.parquet").to_pandas()


def same(found: Any, expected: NDArray[np.float32]) -> bool:
    """To rounding: other fusions, another batch. Huge values lose more of it."""
    with np.errstate(all="ignore"):
        scale = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
    return bool(np.allclose(np.float32(found), expected, rtol=1e-4, atol=2e-5 * scale, equal_nan=True))


@pytest.fixture(scope="module")
def oracle(finished: Path) -> Oracle:
    return Oracle(finished)


def test_faulty_activations_give_what_numpy_and_the_rest_of_the_graph_give(
    finished: Path, oracle: Oracle, mechanism: str
) -> None:
    rows = rows_of(finished)
    rows = rows[rows["where"] == "activation"]
    patterns = {
        "bits-2",
        "bits-3-adjacent",
        "burst-3",
        "burst-4-any-bit",
        "row",
        "column",
        "tile-2x3",
        "tile-4x2-any-bit",
    }
    assert set(rows.pattern) == {*patterns, "single", *(["sites-3"] if mechanism == "op" else [])}
    wrong = []
    for row in records(rows.groupby("pattern", observed=True).sample(25, random_state=0)):
        expected = oracle.faulty_activations(row, oracle.images.row(row.image_id))
        if not same(row.logits, expected):
            wrong.append((row.fault_id, row.site, row.pattern, row.op, row.bit, row.logits, expected))
    assert not wrong


def test_most_faults_of_many_words_are_felt(finished: Path) -> None:
    rows = rows_of(finished)
    felt = (rows.outcome != "identical").groupby(rows.pattern, observed=True).mean().drop("single")
    assert (felt > 0.05).all(), felt  # a stuck bit is often what it was anyway, and most tokens die in the last block


def test_faulty_logits_are_the_golden_ones_with_the_words_changed(finished: Path, oracle: Oracle) -> None:
    """Bit for bit: nothing is computed after the head."""
    plan = pq.read_table(finished / "faults.parquet", columns=["fault_id", "stratum"]).to_pandas()
    rows = rows_of(finished).merge(plan, on="fault_id", suffixes=("", "_plan"))
    rows = rows[(rows.site == "head") & (rows["where"] == "activation") & ~rows.pattern.str.startswith("sites")]
    assert rows.pattern.nunique() >= 8
    with Run(finished) as run:
        golden = run.workplace.engine("model", "activation").golden
    for row in records(rows):
        image = oracle.images.row(row.image_id)
        expected = injected(golden[image : image + 1], oracle.words_of(row))[0]
        assert np.asarray(row.logits, np.float32).tobytes() == expected.tobytes()
        first = oracle.words_of(row)[0]["index"]
        assert row.golden_word == golden[image].view(np.uint32)[first]
        assert row.faulty_word == expected.view(np.uint32)[first]


def test_faulty_weights_give_what_the_changed_file_gives(finished: Path, oracle: Oracle) -> None:
    rows = rows_of(finished)
    rows = rows[rows["where"] == "weight"]
    assert set(rows.pattern) == {"bits-2", "burst-3", "row", "column", "tile-2x2", "sites-2"}
    for fault, part in rows.groupby("fault_id"):
        expected = oracle.faulty_weights(next(part.itertuples()))
        assert [oracle.images.row(image) for image in part.image_id] == list(range(len(oracle.images)))
        assert same(np.stack(part.logits.tolist()), expected), fault


def test_a_persistent_fault_is_of_every_image(finished: Path, oracle: Oracle) -> None:
    rows = rows_of(finished)
    rows = rows[(rows["where"] == "activation") & (rows.scope == "persistent")]
    assert len(rows) > 50
    for _, part in rows.groupby("fault_id"):
        assert part.image_id.tolist() == list(oracle.images.ids)
        assert part.and_mask.nunique() == part["index"].nunique() == 1
    plan = pq.read_table(finished / "faults.parquet").to_pandas()
    persistent = plan[(plan["where"] == "activation") & (plan.scope == "persistent")]
    assert persistent.image_id.isna().all()
    assert persistent.tier.isna().all()


def test_every_kind_of_port_gives_the_same_rows(
    finished: Path, mechanism: str, campaign: Callable[[str], Path]
) -> None:
    ours, theirs = rows_of(finished), rows_of(campaign("gated_replace"))
    ours = ours[~(ours.pattern.str.startswith("sites") & (ours["where"] == "activation"))]
    assert len(ours) == len(theirs)
    for key in ("where", "pattern", "scope", "op", "site", "bit", "index", "image_id", "golden_word", "faulty_word"):
        assert ours[key].astype(str).tolist() == theirs[key].astype(str).tolist(), key
    for one, other in zip(ours.logits, theirs.logits, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_a_stored_fault_of_many_words_can_be_replayed(finished: Path) -> None:
    rows = rows_of(finished)
    with Run(finished) as run:
        for pattern in ("tile-2x3", "row", "bits-2"):
            for where in ("activation", "weight"):
                part = rows[(rows.pattern == pattern) & (rows["where"] == where)]
                if len(part):
                    row = part.iloc[-1]
                    again = run.replay(int(row.fault_id), str(row.image_id))
                    assert np.asarray(again.faulty).tobytes() == np.asarray(row.logits, np.float32).tobytes()
                    assert again.outcome == row.outcome


def test_several_activations_in_one_inference_are_refused_without_the_op(tiny_values: dict[str, Any]) -> None:
    values = campaign_of(tiny_values, "op") | {"engine": {"ports": "gated_replace"}}
    with pytest.raises(UsageError, match=r"pattern: 'sites' strikes 3 activations .* set engine\.ports = 'op'"):
        parse_spec(values)


def test_a_dry_run_tells_fault_models_apart() -> None:
    plan = dry_run_plan(load_spec(Path(__file__).parents[3] / "campaigns" / "fault-models.toml"))
    models = [(section.where, *section.half_width) for section in plan.sections]
    assert ("activation", "flip x bits-2-adjacent") in models
    assert ("activation", "stuck1, persistent") in models
    assert ("weight", "flip x burst-8") in models
    for section in plan.sections:
        assert section.rows == section.faults * (32 if section.scope == "persistent" else 1)


def test_campaigns_of_fault_models_are_compared_model_by_model(finished: Path, campaign: Callable[[str], Path]) -> None:
    compared = compared_json(finished, campaign("gated_replace"))
    told = {(one["where"], one["op"]): one for one in compared["agreement"] if one["op"]}
    assert told["activation", "flip x burst-3"]["agreement"]["rate"] == 1
    assert told["weight", "random x tile-2x2"]["disagreeing_rows"] == 0
    assert ("activation", "stuck1, persistent") in told
