"""Studies of finished campaigns: tolerances, bit-error rates, two runs side by side, the page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from testbed.api.campaigns import SpecSource, load_spec
from testbed.api.progress import ProgressCallback, steps_of
from testbed.api.records import BitErrorSweep, ProtectionProof, RunComparison, ToleranceSweep, WeighedProtection
from testbed.campaign.run import Run
from testbed.core.folder.places import PROTECTED_CAMPAIGN

RunSource = str | os.PathLike[str] | Run
"""A run folder, or an open run."""

BIT_ERROR_RATES = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)


def folder_of(run: RunSource) -> Path:
    """The folder of a run."""
    return run.folder.path if isinstance(run, Run) else Path(run)


def sweep_tolerances(
    run: RunSource,
    *,
    atol: Sequence[float] | None = None,
    rtol: Sequence[float] | None = None,
    detect: float = 0.99,
    noise: Sequence[str] | None = None,
    noise_images: int | None = None,
    link: bool = False,
    limit: int | None = None,
    exact: bool = False,
    progress: ProgressCallback | None = None,
) -> ToleranceSweep:
    """Say what every tolerance would detect and alarm at, from a finished campaign's rows. No fault is run again.

    Args:
        run: A finished run.
        atol: Absolute tolerances. Default: 1e-8 to 1, the campaign's own, and the noise floors.
        rtol: Relative tolerances, of the spec's `rtol_grid`. Default: all of them.
        detect: The detection rate wanted.
        noise: Fault-free engines to measure: `"openvino"`, `"ort-cpu:fp16"`, `"ort-cpu@1"`, `"twin"`. Default: this engine,
            its twin, batch 1, the other compiler, fp16, and what was measured before.
        noise_images: Test images of each tier to measure them on, or more.
        link: Whether to follow faults in the first attention module from its output to the logits.
        limit: Follow only so many of them.
        exact: Whether rows are evaluated again, exactly, whose error bound straddles a tolerance.
        progress: Called with a `Snapshot` now and then.

    Returns:
        The sweep; it stays in the run folder as `sweep.json`, too.

    Raises:
        UsageError: For a folder without a campaign, and for tolerances that the rows do not tell about.
        StaleArtefact: For a campaign that is not finished or whose files were changed.

    Example:
        ```py
        sweep = testbed.sweep_tolerances("runs/digits", atol=[1e-6, 1e-5, 1e-4])
        print(sweep.grid[["op", "tier", "atol"]])
        ```
    """
    from testbed.sweep.run import SweepRequest, sweep_campaign

    def numbers(values: Sequence[float] | None) -> tuple[float, ...] | None:
        return None if values is None else tuple(sorted(set(map(float, values))))

    names = None if noise is None else tuple(noise)
    request = SweepRequest(numbers(atol), numbers(rtol), detect, names, noise_images, link, limit, exact)
    swept = sweep_campaign(folder_of(run), request, steps_of(progress, "sweep"))
    return ToleranceSweep(swept.to_json(), swept)


def sweep_bit_errors(
    subject: SpecSource | Run,
    *,
    rates: Sequence[float] = BIT_ERROR_RATES,
    repeats: int = 10,
    sites: Sequence[str] = ("*",),
    images: int | None = None,
    seed: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
) -> BitErrorSweep:
    """Flip every bit of the weights with one probability, and tell the accuracy that is left.

    Args:
        subject: A run, its folder, or a spec, which is prepared first.
        rates: Probabilities of each bit to flip.
        repeats: Sets of flips per rate.
        sites: Patterns of the weights that are flipped; `"!PATTERN"` leaves some out.
        images: Only so many test images: a random choice, by class.
        seed: Of the flips. Default: the campaign's.
        folder: Run folder of a spec. Default: `runs/NAME`.
        progress: Called with a `Snapshot` now and then.

    Returns:
        Accuracy, SDC-1 and non-finite outputs at each rate, with intervals over the repeats.

    Raises:
        UsageError: For a spec without the whole model as a target, and for weights that do not exist.

    Example:
        ```py
        sweep = testbed.sweep_bit_errors("runs/digits", rates=[1e-6, 1e-5], repeats=5)
        print(sweep.rates)
        ```
    """
    from testbed.ber.run import prepared, run_ber

    steps = steps_of(progress, "bit errors")
    if isinstance(subject, Run) or (isinstance(subject, (str, os.PathLike)) and Path(subject).is_dir()):
        preparation = prepared(folder_of(subject))
    else:
        spec = load_spec(subject)
        path = Path("runs") / spec.name if folder is None else Path(folder)
        preparation = prepared(path, spec, lambda stage, total, what: steps_of(progress, stage)(total, what))
    swept = run_ber(
        preparation,
        tuple(rates),
        repeats,
        sites=tuple(sites),
        images=images,
        seed=seed,
        progress=lambda total: steps(total, "images"),
    )
    return BitErrorSweep(swept.to_json(), swept)


def compare_runs(first: RunSource, second: RunSource) -> RunComparison:
    """Compare two finished campaigns of one model: two engines fault by fault, or two precisions by role of the bit.

    Args:
        first: Side A.
        second: Side B.

    Returns:
        The comparison: rates of both sides, agreement, and every disagreement.

    Raises:
        UsageError: For campaigns of two models, and where nothing can be paired.
        StaleArtefact: For a campaign that is not finished or whose files were changed.

    Example:
        ```py
        comparison = testbed.compare_runs("runs/digits", "runs/digits-openvino")
        print(comparison.headline)
        ```
    """
    from testbed.compare.campaigns import compare_campaigns

    compared = compare_campaigns(folder_of(first), folder_of(second))
    return RunComparison(compared.to_json(), compared)


def compare_protected(
    plain: RunSource, protected: RunSource | None = None, *, to: str | os.PathLike[str] | None = None
) -> ProtectionProof:
    """Say what protection bought, from two finished campaigns: of a plain model, and of the same model, protected.

    Faults pair by the elements, masks and image, however they were drawn.

    Args:
        plain: The campaign of the plain model.
        protected: The campaign of the protected one. Default: the one that a `[protect]` table asked for, in the plain one's
            folder.
        to: A folder for all of it: JSON, tables as CSV, figures as SVG.

    Returns:
        Rates before and after, shares removed, detection with one-sided bounds, needless and false alarms, SDC-1 that
        protection itself makes, and what faults in the checks do.

    Raises:
        UsageError: For campaigns that are not of one model, plain and protected, in one engine, precision and tolerance, and
            where nothing can be paired.
        StaleArtefact: For a campaign that is not finished or whose files were changed.

    Example:
        ```py
        proof = testbed.compare_protected("runs/digits", "runs/digits-protected")
        print(proof.groups[["where", "op", "by", "value", "sdc1.removed.share"]])
        ```
    """
    from testbed.protect.paired.compare import compare_protected as paired

    home = folder_of(plain)
    compared = paired(home, home / PROTECTED_CAMPAIGN if protected is None else folder_of(protected))
    if to is not None:
        from testbed.publish.protection import write_comparison

        write_comparison(compared, Path(to))
    return ProtectionProof(compared.to_json(), compared)


def weigh_protection(
    campaigns: Sequence[RunSource],
    *,
    to: str | os.PathLike[str] | None = None,
    batch: int | Sequence[int] = (1, 8, 32),
    budget: float = 5.0,
    cost: Literal["macs", "latency"] = "macs",
    threads: int = 1,
    seconds: float = 3.0,
    runs: int = 100,
    report: Callable[[str], None] = lambda line: None,
) -> WeighedProtection:
    """Put protected models beside the plain one: latency that each adds, and what it leaves of the same faults.

    Args:
        campaigns: Finished campaigns of the plain model and of what was protected of it, in any order.
        to: A folder for all of it: page, JSON, tables as CSV, figures. Default: nothing is written.
        batch: Images per run; of several, the first is what counts.
        budget: Latency that a recommended model may add, in per cent.
        cost: What places on the hypothetical curve cost.
        threads: Of the timed engines.
        seconds: Per engine and batch, or ...
        runs: ... so many runs, whichever is less; 6 at least.
        report: Called with a line of progress now and then.

    Returns:
        Latency ratios, what is left by fault model, the Pareto front, a recommendation that says why, and what was expected
        of each model beside what it removed.

    Raises:
        UsageError: For campaigns that are not of one plain model and its protected ones in one engine and precision, and
            where a model's folder is gone or deploys another file than was run.
        StaleArtefact: For a campaign that is not finished or whose files were changed.

    Example:
        ```py
        weighed = testbed.weigh_protection(["runs/digits", "runs/digits-protected"], to="runs/picture")
        print(weighed.points[["model", "event", "left.rate", "standing"]], weighed.why)
        ```
    """
    from testbed.bench.timing import LEAST_ROUNDS, Budget
    from testbed.protect.tradeoff.weigh import WeighRequest
    from testbed.protect.tradeoff.weigh import weigh_protection as weighed_of

    batches = (batch,) if isinstance(batch, int) else tuple(batch)
    timing = Budget(seconds=seconds, runs=max(runs, LEAST_ROUNDS))
    request = WeighRequest(batches, threads, timing, budget, cost)
    weighed = weighed_of([folder_of(campaign) for campaign in campaigns], request, report)
    if to is not None:
        from testbed.publish.tradeoff_files import write_weighed

        write_weighed(weighed, Path(to))
    return WeighedProtection(weighed.to_json(), weighed)


def write_report(run: RunSource) -> Path:
    """Write the page of a finished campaign again, from its files.

    Args:
        run: A finished run.

    Returns:
        Path of `report.html`.

    Raises:
        UsageError: For a folder without a run.
        StaleArtefact: For an unfinished campaign, or changed files.

    Example:
        ```py
        print(testbed.write_report("runs/digits"))
        ```
    """
    from testbed.report.rebuild import rebuild_report

    return rebuild_report(folder_of(run))
