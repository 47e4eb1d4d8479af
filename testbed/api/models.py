"""Models from Python: rank their components, prune them, time them as deployed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypedDict, Unpack

from testbed.api.model_results import ComponentRanking, LatencyResult, PruneResult, RankingValidation
from testbed.sensitivity.rank.catalogue import METHODS, PruneMethod, ScoreMethod

Folder = str | os.PathLike[str]
Kind = Literal["block", "head", "chunk", "neuron"]


class ScoreOptions(TypedDict, total=False):
    """How components are scored. Every key may be left out.

    Attributes:
        images: Analysis images; 256 unless said.
        seed: Of the images and their partners.
        chunks: Runs of neurons per MLP; 8 unless said.
        data: Data set of the analysis images, where the model's has test images only.
        tau: acdc: what is taken away for good, in nats.
        rule: acdc: what tau bounds, "incremental" or "cumulative".
        ablation: acdc: what removed values become, "zero", "mean" or "resample".
        loss: eap: "task", "logit_difference" or "kl".
        corrupt: eap: corrupt inputs, "other_class", "mean", "noise" or "masked".
        snr_db: eap: of corrupt "noise".
        masks: eap: of corrupt "masked", a folder of DIR/IMAGE-ID.png, or "imagenet-s".
        steps: eap-ig: points of the path; 5 unless said.
    """

    images: int
    seed: int
    chunks: int
    data: str | None
    tau: float
    rule: Literal["incremental", "cumulative"]
    ablation: Literal["zero", "mean", "resample"]
    loss: Literal["task", "logit_difference", "kl"]
    corrupt: Literal["other_class", "mean", "noise", "masked"]
    snr_db: float
    masks: str | None
    steps: int


def rank_components(
    model: Folder,
    by: ScoreMethod | Literal["measured"],
    of: Kind = "block",
    *,
    campaign: Folder | None = None,
    **options: Unpack[ScoreOptions],
) -> ComponentRanking:
    """Score the blocks, heads or neurons of a model: which of them matter most?

    Args:
        model: Run folder of the model.
        by: The score: "acdc" (divergence when a part goes), "eap" and "eap-ig" (attribution to its edges), "fuzziness"
            (separation gained in a block), "identifiability" (by how much a part lifts the true class in class space),
            "attention-distance" (how far a head looks), "gradient" (gradient times value of a part's output), "magnitude"
            (its size beside the residual stream), "attnlrp" (relevance that passes through it), or "measured" (SDC-1 of
            single flips in a campaign).
        of: Kind of components.
        campaign: The finished campaign of `by="measured"`.
        **options: See `ScoreOptions`.

    Returns:
        The ranking; `scores` is a data frame, the first matter most.

    Raises:
        UsageError: For what a method does not score, and for a folder without a model.

    Example:
        ```py
        ranking = testbed.rank_components("runs/digits", by="eap", of="head", images=64)
        print(ranking.scores)
        ```
    """
    from testbed.sensitivity.rank.ranking import rank
    from testbed.sensitivity.rank.settings import ScoreSettings

    ranking = rank(Path(model), by, of, ScoreSettings(**options), None if campaign is None else Path(campaign))
    return ComponentRanking(ranking.to_json(), ranking)


def validate_ranking(
    model: Folder,
    campaign: Folder,
    of: Kind = "block",
    *,
    methods: Sequence[ScoreMethod] = METHODS,
    picture: Folder | None = None,
    **options: Unpack[ScoreOptions],
) -> RankingValidation:
    """Hold scores against a campaign: do the parts that they put first change the prediction most when struck?

    Args:
        model: Run folder of the model.
        campaign: A finished campaign of the same model.
        of: Kind of components.
        methods: The scores; all unless said. Verdicts are corrected (Holm) for as many comparisons.
        picture: Draws the result into this PNG file.
        **options: See `ScoreOptions`.

    Returns:
        Rank correlations with intervals and a permuted control, and how much SDC-1 would go if the first parts were
        protected.

    Raises:
        UsageError: For a campaign of another model, and where no method can score this kind.

    Example:
        ```py
        validation = testbed.validate_ranking("runs/digits", "runs/digits", of="head", methods=["eap"])
        print(validation.correlations)
        ```
    """
    from testbed.sensitivity.rank.ranking import check
    from testbed.sensitivity.rank.settings import ScoreSettings

    checked = check(Path(model), Path(campaign), of, ScoreSettings(**options), tuple(methods))
    if picture is not None:
        from testbed.sensitivity.rank.pictures import validation_picture

        validation_picture(Path(picture), checked)
    return RankingValidation(checked.to_json(), checked)


def prune_model(
    model: Folder,
    to: Folder,
    method: PruneMethod,
    amount: float | Sequence[float],
    *,
    components: Sequence[Kind] = ("head", "chunk"),
    finetune: int | None = None,
    finetune_recipe: str = "finetune",
    report: Callable[[str], None] = lambda line: None,
    **options: Unpack[ScoreOptions],
) -> PruneResult:
    """Cut heads and MLP neurons out of a model, and write what is left as a model like any other.

    Args:
        model: Run folder of the model.
        to: New run folder; of several amounts, the folder of the run folders.
        method: The score that components are chosen by.
        amount: acdc: tau, by how much the divergence may rise per component, in nats. Other scores: the share of
            components that stays. Several: a sweep.
        components: What may go.
        finetune: Epochs of training of what is left. Default: none.
        finetune_recipe: How to fine-tune.
        report: Called with a line of progress now and then.
        **options: See `ScoreOptions`.

    Returns:
        Accuracy, parameters and MACs of each smaller model, with what was kept.

    Raises:
        UsageError: For what cannot be pruned; nothing is written for it.

    Example:
        ```py
        pruned = testbed.prune_model("runs/digits", "runs/half", method="eap", amount=0.5)
        print(pruned.models[["run", "macs", "accuracy"]])
        ```
    """
    from testbed.prune.run import PruneRequest, prune_runs
    from testbed.sensitivity.rank.settings import ScoreSettings
    from testbed.train import recipe

    amounts = [float(amount)] if isinstance(amount, (int, float)) else [float(value) for value in amount]
    training = recipe(finetune_recipe, epochs=finetune) if finetune else None
    orders = [PruneRequest(method, value, tuple(components), ScoreSettings(**options), training) for value in amounts]
    places = [Path(to)] if len(orders) == 1 else [Path(to) / order.name for order in orders]
    pruned = prune_runs(Path(model), list(zip(orders, places, strict=True)), report)
    return PruneResult({"runs": [each.to_json() for each in pruned]}, pruned)


def bench_models(
    models: Folder | Sequence[Folder],
    *,
    engine: str = "ort-cpu",
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32",
    batch: int | Sequence[int] = (1, 8, 32),
    threads: int = 1,
    seconds: float = 3.0,
    runs: int = 100,
    baseline: Folder | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> LatencyResult:
    """Time the plain engines of models side by side, in turns. Never an instrumented engine.

    Args:
        models: Run folders.
        engine: The engine, such as "openvino".
        precision: Of its file.
        batch: Images per run; several are measured one after the other.
        threads: Of the engine.
        seconds: Per engine and batch, or ...
        runs: ... so many runs, whichever is less; 6 at least.
        baseline: Ratios are to this model.
        report: Called with a line of progress now and then.

    Returns:
        Percentiles, throughput, parameters and MACs, and every single run.

    Raises:
        UsageError: For a folder without a model, one named twice, or an unknown engine.
        EngineError: Where an engine cannot be built.

    Example:
        ```py
        latency = testbed.bench_models(["runs/digits", "runs/half"], baseline="runs/digits", batch=1)
        print(latency.table[["model", "p50_ms", "ratio"]])
        ```
    """
    from testbed.bench.latency import Question, measure
    from testbed.bench.timing import LEAST_ROUNDS, Budget
    from testbed.core.errors import UsageError

    folders = [Path(models)] if isinstance(models, (str, os.PathLike)) else [Path(model) for model in models]
    batches = (batch,) if isinstance(batch, int) else tuple(batch)
    if not folders or not batches or min(batches) < 1:
        raise UsageError("name one model at least, and images per run: 1 or more")
    question = Question(engine, precision, batches, threads, Budget(seconds=seconds, runs=max(runs, LEAST_ROUNDS)))
    rows = measure(folders, question, None if baseline is None else Path(baseline), report)
    return LatencyResult({"rows": [row.to_json() for row in rows]}, rows)
