"""A finished or begun run as an object: look at its files, inject one chosen fault, re-run a stored one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from testbed.campaign.files import PLAN, RESULTS, Files
from testbed.campaign.folder.claim import recorded_spec
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.injection import Injection, StoredRow, inject
from testbed.campaign.notebook import finished_html, unfinished_html
from testbed.campaign.plan.row import PlanRow, rows_of
from testbed.campaign.plan.table import read_plan
from testbed.campaign.prepare.recorded import verify_prepared
from testbed.campaign.results.reader import RESULT_TABLE
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.summary.rate_table import rate_table, with_weights
from testbed.campaign.summary.record import Summary
from testbed.campaign.summary.summarise import read_summary
from testbed.core.closing import Closing
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.fault import Op, masks_for
from testbed.core.folder.runfolder import RunFolder
from testbed.core.site import SiteTable


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
            and high (0 to 1), high_95 and high_99 (what the rate is below with 95 and 99 % confidence, one-sided; exact where
            no event was seen), n (rows) and faults. No rate mixes fault models.

        Raises:
            UsageError: For a dimension or a measure that there is none of.
            StaleArtefact: When the campaign is not finished or its files were changed.
        """
        for file in (PLAN, RESULTS):
            self.folder.verify_file(file)
        formats: dict[str, dict[str, str]] = {
            t: {site.name: site.format_name for site in self.sites(t)} for t in self.spec.targets
        }
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
        fault = PlanRow.single(target, tensor, op, bit, index, masks, image or self.image_ids[0])
        return inject(self.workplace, tensor, fault)

    def stored(self, fault_id: int) -> PlanRow:
        """Look up the planned fault of that number.

        Raises:
            UsageError: When there is none.
        """
        self.folder.verify_file(PLAN)
        plan = read_plan(self.folder / PLAN)
        rows = rows_of(plan.filter(pc.equal(plan.column("fault_id"), fault_id)))
        if not rows:
            raise UsageError(f"there is no fault {fault_id}; this campaign's are numbered 0 to {plan.num_rows - 1}")
        return rows[0]

    def stored_row(self, fault_id: int, image_id: str) -> StoredRow | None:
        """Look up the stored row of that fault and image; None where there is none, or the campaign is not finished."""
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
        outcome = str(rows.column("outcome")[0].as_py())
        return StoredRow(fault_id, image_id, outcome, None if logits is None else logits.to_numpy())

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
        fault = self.stored(fault_id)
        fault = fault._replace(image_id=self.image_of(fault, image), image_ids=None)
        return inject(self.workplace, self.sites(fault.target)[fault.site], fault)

    def image_of(self, fault: PlanRow, image: str | None = None) -> str:
        """Say on which image a planned fault is looked at: its own, or of a persistent one ``image``, the first that it was run
        on unless stated.

        Raises:
            UsageError: For another image than the fault's own.
        """
        if image and fault.image_id and image != fault.image_id:
            raise UsageError(
                f"fault {fault.fault_id} is in an activation of image {fault.image_id!r}; it has no other image"
            )
        if image and fault.image_ids and image not in fault.image_ids:
            raise UsageError(
                f"fault {fault.fault_id} was not run on image {image!r}; its images are {', '.join(fault.image_ids)}"
            )
        run_on = fault.image_ids or self.image_ids
        return fault.image_id or image or run_on[0]

    def plain_file(self, target: str = "model") -> Path:
        """Path of the ONNX file as it would be deployed."""
        return self.folder / Files(target).plain

    def close(self) -> None:
        """Close the engines that faults were injected into; later injections open them again."""
        self.workplace.close()

    def __repr__(self) -> str:
        return f"<testbed.Run {self.spec.name!r} in {str(self.path)!r}>"

    def _repr_html_(self) -> str:
        stages = self.folder.manifest["stages"]
        if "summary" not in stages:
            return unfinished_html(self.spec, self.path, stages)
        return finished_html(self.spec, self.path, self.summary)
