"""A finished or begun run as an object: look at its files, inject one chosen fault, re-run a stored one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Evaluated, Injections
from testbed.campaign.evaluate.golden_words import golden_words
from testbed.campaign.evaluate.injections import injections_of, with_golden_words
from testbed.campaign.evaluate.whole import WholeTwin
from testbed.campaign.execute.faults import ActivationFaultRunner, WeightFaultRunner
from testbed.campaign.files import PLAN, RESULTS, Files
from testbed.campaign.folder.claim import recorded_spec
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.plan.points import points_path
from testbed.campaign.plan.table import PlanSlice, fault_row, read_plan, table_of
from testbed.campaign.prepare.stages import verify_prepared
from testbed.campaign.results.reader import RESULT_TABLE
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.summary.rate_table import rate_table, with_weights
from testbed.campaign.summary.record import RateRecord, Summary
from testbed.campaign.summary.summarise import read_summary
from testbed.core.closing import Closing
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.fault import Op, masks_for
from testbed.core.folder.runfolder import RunFolder
from testbed.core.site import Site, SiteTable
from testbed.core.words import html
from testbed.instrument.ports.feed import numbers


@dataclass(frozen=True)
class Injection:
    """One fault injected into the compiled engine, for one image.

    Attributes:
        target: "model", or "attention" for its first attention module alone.
        site: The tensor that was hit.
        index: Flat index of the element, in the site's canonical shape.
        op: "flip", "stuck0", "stuck1", "random" or "identity".
        bit: Number of the bit; none for "random".
        image_id: The image.
        label: Its class.
        golden_value: The element without the fault.
        faulty_value: The element with it.
        golden: The engine's output without the fault: logits (K,), or (N, D) of the attention module.
        faulty: The engine's output with it.
        outcome: "identical", "masked", "sdc_tolerable", "sdc1", "sdc" or "due".
        engine_hash: Hash of the engine that ran.
    """

    target: str
    site: str
    index: int
    op: Op
    bit: int | None
    image_id: str
    label: int
    golden_value: float
    faulty_value: float
    golden: NDArray[np.float32]
    faulty: NDArray[np.float32]
    outcome: str
    engine_hash: str


class Run(Closing):
    """The run of a campaign: its files as tables, and its engines for faults of one's own.

    Use it as a context manager, or call `close`: it holds engines. `open_run` opens one.

    Args:
        path: The run folder.

    Attributes:
        folder: The run folder with its manifest.
        spec: The spec that the campaign was begun with.

    Raises:
        UsageError: For a folder without a campaign.
        StaleArtefact: For a campaign that is not prepared, or whose files were changed.
    """

    def __init__(self, path: Path | str) -> None:
        self.folder = RunFolder.existing(Path(path))
        self.spec: CampaignSpec = recorded_spec(self.folder)
        verify_prepared(self.folder, self.spec)
        self.workplace = Workplace(self.folder, self.spec)

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @cached_property
    def summary(self) -> Summary:
        """The summary of a finished campaign; its `to_json()` is what `testbed show DIR --json` prints.

        Raises:
            StaleArtefact: When the campaign is not finished or its files were changed.
        """
        return read_summary(self.path)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The campaign's named images."""
        return self.workplace.images.ids

    def sites(self, target: str = "model") -> SiteTable:
        """Every tensor of a target that faults can be injected into, by name, with shape, block, kind and number format."""
        if target not in self.spec.targets:
            raise UsageError(f"this campaign has no target {target!r}; it has {', '.join(self.spec.targets)}")
        return self.workplace.table(target)

    @cached_property
    def results(self) -> pd.DataFrame:
        """Every stored row, with its `weight`: the weighted mean over rows of one fault model is its rate, a plain mean is not.

        Raises:
            StaleArtefact: When the campaign is not finished or the file was changed.
        """
        self.folder.verify_file(RESULTS)
        self.folder.verify_file(PLAN)
        rows = RESULT_TABLE.read(self.folder / RESULTS).to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
        return with_weights(rows, read_plan(self.folder / PLAN).select(["fault_id", "population"]).to_pandas())

    def rates(self, by: Sequence[str] | str = (), measure: str = "sdc1") -> pd.DataFrame:
        """Rates with their intervals, by whatever the faults have in common: `run.rates(by=["block", "bit_class"])`.

        Args:
            by: One or several of "tier", "kind", "bit_class", "bit", "format", "block" and "site". None: one rate per fault
                model. "bit" is told within each number format.
            measure: "sdc1" (another top-1), "outside" (outside the tolerance, or no output) or "nonfinite". The attention
                module on its own has no classes, and no "sdc1".

        Returns:
            One row per fault model and value of `by`: target, where, op, pattern, scope, the columns of `by`, estimate, low
            and high (0 to 1), n (rows) and faults. No rate mixes fault models.

        Raises:
            UsageError: For a dimension or a measure that there is none of.
            StaleArtefact: When the campaign is not finished or its files were changed.
        """
        for file in (PLAN, RESULTS):
            self.folder.verify_file(file)
        formats = {t: {site.name: site.format_name for site in self.sites(t)} for t in self.spec.targets}
        return rate_table(self.folder / RESULTS, self.folder / PLAN, formats, self.spec.confidence, by, measure)

    def inject(
        self,
        site: str,
        index: int,
        bit: int | None = None,
        image: str | None = None,
        *,
        op: Op = "flip",
        value: float | None = None,
        target: str = "model",
    ) -> Injection:
        """Inject one fault into the compiled engine: in an activation for one inference, or in a weight.

        Args:
            site: Name of the tensor; `sites` lists them.
            index: Flat index of the element, in the site's canonical shape.
            bit: The bit that is hit; none for "random".
            image: The image. Default: the first named one.
            op: "flip", "stuck0", "stuck1", "random" or "identity".
            value: What "random" writes.
            target: "model" or "attention".

        Returns:
            Values and outputs without and with the fault, and the outcome.

        Raises:
            UsageError: For anything that does not exist.
        """
        tensor = self.sites(target)[site]
        tensor.stored_index(index)
        if op == "random" and value is None:
            raise UsageError("op 'random' writes a value; give value=")
        word = int(np.float32(0 if value is None else value).view(np.uint32))
        masks = masks_for(op, tensor.format, bit, word)
        row = fault_row(target, tensor, op, bit, index, masks, image or self.image_ids[0])
        return self._injected(tensor, row)

    def stored(self, fault_id: int) -> dict[str, Any]:
        """Look up the planned fault of that number.

        Raises:
            UsageError: When there is none.
        """
        self.folder.verify_file(PLAN)
        plan = read_plan(self.folder / PLAN)
        rows = plan.filter(pc.equal(plan.column("fault_id"), fault_id)).to_pylist()
        if not rows:
            raise UsageError(f"there is no fault {fault_id}; this campaign's are numbered 0 to {plan.num_rows - 1}")
        return dict(rows[0])

    def stored_row(self, fault_id: int, image_id: str) -> dict[str, Any] | None:
        """Look up the stored row of that fault and image, logits (K,) float32; None while the campaign is not finished."""
        try:
            self.folder.verify_file(RESULTS)
        except StaleArtefact:
            if (self.folder / RESULTS).exists():
                raise
            return None
        rows = RESULT_TABLE.read(self.folder / RESULTS, filters=[("fault_id", "=", fault_id)])
        rows = rows.filter(pc.equal(rows.column("image_id").cast(pa.string()), image_id))
        if not rows.num_rows:
            return None
        logits = rows.column("logits")[0].values  # not through Python's floats, which make every NaN a quiet one
        return {**rows.to_pylist()[0], "logits": None if logits is None else logits.to_numpy()}

    def replay(self, fault_id: int, image: str | None = None) -> Injection:
        """Inject a planned fault again.

        Args:
            fault_id: Its number.
            image: Which image, for weight faults; an activation fault has its own.

        Returns:
            What came out; bit for bit what is stored.

        Raises:
            UsageError: For a fault or an image that does not exist.
        """
        row = self.stored(fault_id)
        if image and row["image_id"] and image != row["image_id"]:
            raise UsageError(
                f"fault {fault_id} strikes an activation of image {row['image_id']!r}; it has no other image"
            )
        row["image_id"] = row["image_id"] or image or self.image_ids[0]
        return self._injected(self.sites(row["target"])[row["site"]], row)

    def _injected(self, site: Site, row: dict[str, Any]) -> Injection:
        """Runs a fault through the whole twin, whatever the campaign used: the reference of all other evaluations."""
        target, image = row["target"], self.workplace.images.row(row["image_id"])
        engine, judge = self.workplace.engine(target, site.where), self.workplace.judge
        target_place = PlanSlice(target, site.where, table_of([row]), points_path(self.folder / PLAN))
        if site.where == "activation":
            words = golden_words(self.workplace, target_place)
            _, injections = injections_of(target_place, engine.table, engine.images)
            ports = with_golden_words(injections, words).ports
            runner = ActivationFaultRunner(engine, (kept := _Kept(WholeTwin(engine))), judge)
            rows, at = runner.rows(target_place, words), 0
            faulty, before, after = kept.outputs[0], ports.golden[0, :1], ports.faulty[0, :1]
        else:
            weights = WeightFaultRunner(engine, judge)
            outputs, before, after, _ = weights.inject(target_place, 0)
            rows, at, faulty = weights.rows(target_place, np.zeros(0, np.uint32)), image, outputs[image]
        outcome = rows.column("outcome")[at].as_py()
        return Injection(
            target=target,
            site=site.name,
            index=row["index"],
            op=row["op"],
            bit=row["bit"],
            image_id=row["image_id"],
            label=int(engine.images.labels[image]),
            golden_value=float(numbers(before, [site.format_name])[0]),
            faulty_value=float(numbers(after, [site.format_name])[0]),
            golden=engine.golden[image],
            faulty=faulty,
            outcome=str(outcome),
            engine_hash=engine.runner.info.hash,
        )

    def plain_file(self, target: str = "model") -> Path:
        """Path of the ONNX file as it would be deployed."""
        return self.folder / Files(target).plain

    def close(self) -> None:
        """Close the engines that faults were injected into; later injections open them again."""
        self.workplace.close()

    def __repr__(self) -> str:
        return f"<testbed.Run {self.spec.name!r} in {str(self.path)!r}>"

    def _repr_html_(self) -> str:
        return run_html(self)


class _Kept:
    """An evaluator that keeps the outputs it has found."""

    def __init__(self, evaluator: WholeTwin) -> None:
        self._evaluator = evaluator
        self.outputs: list[NDArray[np.float32]] = []

    @property
    def golden(self) -> NDArray[np.float32]:
        return self._evaluator.golden

    def evaluate(self, injections: Injections) -> Iterator[Evaluated]:
        for evaluated in self._evaluator.evaluate(injections):
            self.outputs.extend(evaluated.outputs)
            yield evaluated


def run_html(run: Run) -> str:
    """A run in a notebook: what ran, and the rates of each fault model."""
    spec = run.spec
    facts = {"folder": run.path, "engine": f"{spec.engine.backend} {spec.engine.precision}"}
    if "summary" not in run.folder.manifest["stages"]:
        stages = ", ".join(run.folder.manifest["stages"])
        return html.heading(f"Campaign {spec.name}: not finished") + html.facts(facts | {"stages done": stages})
    summary = run.summary
    model = summary.model
    facts |= {
        "model": f"{model.preset} on {summary.data.name}, test accuracy {100 * model.test_accuracy:.2f} %",
        "faults": f"{summary.faults:,}",
        "rows": f"{summary.rows:,}",
    }
    measures = ("sdc1", "outside", "nonfinite")
    rows = [
        (m.target, m.where, m.op, f"{m.faults:,}", *(_percent(m.rate(measure)) for measure in measures))
        for m in summary.marginals
        if m.by == "all"
    ]
    headings = ("target", "faults in", "fault", "faults", "SDC-1", "outside tolerance", "non-finite")
    title = f"Rates in % with {100 * summary.confidence:g} % intervals"
    return (
        html.heading(f"Campaign {spec.name}")
        + html.facts(facts)
        + html.paragraph(title)
        + html.table(headings, rows)
        + html.paragraph(summary.statement)
    )


def _percent(rate: RateRecord | None) -> str:
    if rate is None:
        return ""
    return f"{100 * rate.rate:.2f} [{100 * rate.low:.2f}, {100 * rate.high:.2f}]"
