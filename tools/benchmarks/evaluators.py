"""The campaign's evaluators where the campaign does not choose them itself yet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from testbed.campaign.attention import AttentionEvaluator, AttentionPaths
from testbed.campaign.attention_gate import prove
from testbed.campaign.attention_golden import AttentionTarget
from testbed.campaign.attention_graphs import attention_sites
from testbed.campaign.bench import Bench
from testbed.campaign.evaluation import Evaluator
from testbed.campaign.evaluators import evaluator_for
from testbed.campaign.files import Files
from testbed.campaign.whole import WholeTwin
from testbed.campaign.workplace import Workplace
from testbed.core.files import sha256_bytes
from testbed.engines.runner import Runner


def evaluator(place: Workplace, bench: Bench) -> Evaluator:
    chosen = evaluator_for(place, bench)
    if bench.target != "attention" or not isinstance(chosen, WholeTwin):
        return chosen
    files = Files(bench.target)
    plain, twin = ((place.folder / file).read_bytes() for file in (files.plain, files.twin))
    sites = attention_sites(bench.table, plain)
    if sites is None:
        return chosen
    request = place.request(bench.target, files.plain)

    def opened(model: bytes) -> Runner:
        return place.open(replace(request, onnx=model, file_sha256=sha256_bytes(model)))

    target = AttentionTarget(plain, twin, bench.table, sites, opened, bench.inputs, bench.batch)
    paths = AttentionPaths.of(prove(target, chosen, len(bench.images), place.spec.seed))
    judge = place.judge
    atol = judge.of_images(bench.images, np.arange(len(bench.images)))
    return AttentionEvaluator(target, chosen, paths, atol, judge.rtol)
