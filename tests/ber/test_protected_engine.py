"""Bit-error rates of a protected engine: alarms against ONNX Runtime on files with the same bits flipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from testbed.ber.rates import flipped
from testbed.ber.run import chosen_images, prepared, run_ber
from testbed.core.protected import DETECTED
from tests.support.commands import answer, invoke
from tests.support.progress import no_progress

IMAGES, REPEATS, RATE = 40, 3, 3e-4


def test_alarms_are_told_and_are_no_silent_corruption(protected_campaign: Path) -> None:
    folder = protected_campaign / "protected/campaign"
    preparation = prepared(folder)
    swept = run_ber(preparation, (RATE,), REPEATS, images=IMAGES, progress=no_progress)
    (record,) = swept.rates
    test = chosen_images(preparation.dataset.test, IMAGES, preparation.spec.seed)
    pixels = test.batch(slice(None))
    chosen = [site for site in preparation.table("model").select("weight", ("*",)) if site.name in swept.sites]
    golden, clean = _outputs(folder, [], pixels)
    assert not clean.any()
    assert record.detected is not None
    alarms, silent, right = [], [], []
    for repeat in range(REPEATS):
        outputs, detected = _outputs(folder, flipped(chosen, RATE, preparation.spec.seed, repeat), pixels)
        alarms.append(detected.mean())
        silent.append(((outputs.argmax(1) != golden.argmax(1)) & ~detected).mean())
        right.append((outputs.argmax(1) == test.labels).mean())
    assert record.detected.per_repeat == pytest.approx(alarms)
    assert record.sdc1.per_repeat == pytest.approx(silent)
    assert record.accuracy.per_repeat == pytest.approx(right)
    assert max(alarms) > 0


def _outputs(folder: Path, faults: list, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and alarms of the deployed file with these bits flipped."""
    proto = onnx.load(str(folder / "model.onnx"))
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for fault in faults:
        tensor = tensors[fault.tensor]
        values = numpy_helper.to_array(tensor).copy()
        words = values.reshape(-1).view(np.uint32)
        words[fault.index] ^= fault.xor_mask
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    logits, alarms = session.run([proto.graph.output[0].name, DETECTED], {proto.graph.input[0].name: pixels})
    return np.nan_to_num(logits, nan=np.inf), alarms


def test_the_command_has_a_column_for_alarms_where_there_can_be_any(protected_campaign: Path) -> None:
    asked = ("campaign", "ber", protected_campaign / "protected/campaign", "--rates", "1e-4", "--repeats", 2)
    shown = invoke(*asked, "--images", 20)
    assert shown.exit_code == 0, shown.output
    assert "detected" in shown.stdout
    told = answer("campaign", "ber", protected_campaign, "--rates", "1e-4", "--repeats", 2, "--images", 20)
    assert "detected" not in told["rates"][0]
