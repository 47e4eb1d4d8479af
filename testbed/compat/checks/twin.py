"""The twin without a fault: the plain file's very bits, node by node, and close to it as deployed."""

from __future__ import annotations

import numpy as np

from testbed.campaign.execute.checks import DRIFT, Bounds, failing, parity
from testbed.campaign.files import Files
from testbed.compat.checks.subject import TARGET, CheckedExport, CheckFailed
from testbed.compat.checks.unoptimised import Unoptimised
from testbed.engines.batches import run_batched
from testbed.instrument.ports.feed import PortFeed


def check_twin(subject: CheckedExport) -> None:
    """Raises CheckFailed where an unarmed twin gives other bits than the plain file, or drifts from it in the engine."""
    engine, images = subject.engine, subject.inputs
    name, output = engine.input_name, engine.output_name
    plain = Unoptimised(subject.plain).run({name: images})[output]
    idle = PortFeed.idle(len(images)).as_inputs(subject.table)
    twin = Unoptimised(subject.twin).run({name: images, **idle})[output]
    if plain.tobytes() != twin.tobytes():
        rows = int((plain != twin).reshape(len(images), -1).any(axis=1).sum())
        raise CheckFailed(f"unarmed, the twin gives other bits than the plain file on {rows} of {len(images)} images")
    workplace = subject.campaign.workplace
    with workplace.open(workplace.request(TARGET, Files(TARGET).plain)) as runner:
        deployed = run_batched(lambda rows: runner.run({name: engine.inputs(rows)})[output], len(images), engine.batch)
    compared = parity([(DRIFT, deployed, engine.golden)], TARGET, Bounds.of(workplace.spec))
    if wrong := next(failing(compared), ""):
        raise CheckFailed(wrong)
    if not np.isfinite(deployed).all():
        raise CheckFailed("the model's logits are not finite")
