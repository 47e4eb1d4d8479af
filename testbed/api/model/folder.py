"""A model in a run folder, as an object: what `testbed golden`, `tiers`, `subset`, `export` do with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from testbed.api.model.results import ConfidenceTiers, ExportedModel, GoldenSummary, GoldenVerification, ImageSubset
from testbed.api.progress import ProgressCallback, steps_of
from testbed.core.folder.runfolder import RunFolder
from testbed.core.words import html

File = str | os.PathLike[str]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


class Model:
    """A model in a run folder: `train_model` and `import_model` make one, and a prepared campaign holds one.

    Every function that takes the folder of a model takes it. Nothing is loaded before it is needed.

    Args:
        path: The run folder. Raises UsageError for a folder without a run.

    Example:
        ```py
        model = testbed.Model("runs/vit")
        model.record_golden(images=500)
        model.sort_tiers()
        print(model.export("model", precision="fp16").parity)
        ```
    """

    def __init__(self, path: File) -> None:
        self.path = RunFolder.existing(Path(path)).path

    def record_golden(
        self,
        images: int | tuple[int, int] | None = None,
        *,
        modules: Sequence[str] = ("attention",),
        batch: int = 64,
        threads: int | None = None,
        device: str = "auto",
        progress: ProgressCallback | None = None,
    ) -> GoldenSummary:
        """Run the model over the test images, and record logits and the inputs and outputs of modules.

        Args:
            images: A number of test images, a random choice with all classes in proportion, or a range [a, b). Default: all.
            modules: Modules to record: "attention" (the first one), "attention:N", "block:N", or "block.3.mlp".
            batch: Images at a time.
            threads: CPU threads. Default: as many as cores.
            device: "cpu", "cuda", or "auto": cuda where there is one.
            progress: Called with a `Snapshot` now and then.

        Returns:
            Accuracy, number of images and recorded modules.

        Raises:
            UsageError: For images or modules that there are none of, and for a model without data.
        """
        from testbed.golden.recording import record_golden

        steps = steps_of(progress, "golden")
        golden = record_golden(
            self.path,
            images=images,
            modules=modules,
            batch=batch,
            device=device,
            threads=threads,
            progress=lambda total: steps(total, "images"),
        )
        return GoldenSummary(golden.content)

    def verify_golden(
        self,
        target: str = "model",
        engine: str = "ort-cpu",
        *,
        atol: float = 1e-6,
        rtol: float = 1e-5,
        inject: bool = False,
        batch: int = 64,
        threads: int = 1,
        progress: ProgressCallback | None = None,
    ) -> GoldenVerification:
        """Run a target in an engine and compare each image's output with the golden, per confidence tier.

        Args:
            target: "model", "attention", "attention:N" or "block:N".
            engine: What runs it.
            atol: Absolute tolerance.
            rtol: Tolerance relative to the golden value.
            inject: Whether fixed wrong values are put into the golden, which must be found.
            batch: Images at a time.
            threads: CPU threads of the engine.
            progress: Called with a `Snapshot` now and then.

        Returns:
            Deviations per tier, the faulty images, and whether it `passed`.

        Raises:
            UsageError: For an unknown engine, and for a target that was not recorded.
        """
        from testbed.analysis.outputs.compare import Tolerance
        from testbed.golden.verify import verify_golden

        steps = steps_of(progress, "verify")
        return GoldenVerification(
            verify_golden(
                self.path,
                target,
                engine,
                Tolerance(atol, rtol),
                inject=inject,
                batch=batch,
                threads=threads,
                progress=lambda total: steps(total, "images"),
            )
        )

    def sort_tiers(self, edges: int | Sequence[float] = 4) -> ConfidenceTiers:
        """Sort the correctly classified images of the golden into confidence tiers, and write `tiers.json`.

        Args:
            edges: 4 or 5 equal tiers, or the upper edges of one's own, ascending to 1.

        Returns:
            Each tier with its images.

        Raises:
            UsageError: For edges that do not ascend to 1.
        """
        from testbed.analysis.outputs.confidence import TierEdges
        from testbed.golden.tiers import record_tiers

        chosen = TierEdges.preset(edges) if isinstance(edges, int) else TierEdges(tuple(map(float, edges)))
        return ConfidenceTiers(record_tiers(self.path, chosen))

    def choose_images(
        self,
        per_tier: Sequence[int] | None = None,
        *,
        positions: tuple[int, int] | None = None,
        stratified: bool = False,
        seed: int = 0,
    ) -> ImageSubset:
        """Choose images of the golden; write `subset.json` and the rows of their goldens. `verify_golden` then takes these.

        Args:
            per_tier: So many images of each tier: the first ones in data set order.
            positions: The test images [a, b) instead.
            stratified: Whether those of a tier are a random choice with all classes in proportion.
            seed: Of the random choice.

        Returns:
            The chosen images.

        Raises:
            UsageError: For a tier that has too few, and for a range that was not recorded.
        """
        from testbed.golden.subset import record_subset

        return ImageSubset(
            record_subset(self.path, per_tier=per_tier, positions=positions, stratified=stratified, seed=seed)
        )

    def export(
        self,
        target: str = "model",
        *,
        precision: Precision = "fp32",
        engine: str = "ort-cpu",
        rtol: float = 1e-5,
        calibration_images: int = 256,
        calibration_method: Literal["MinMax", "Entropy", "Percentile"] = "MinMax",
        calibration_data: str | None = None,
        batch: int = 64,
        threads: int = 1,
        progress: ProgressCallback | None = None,
    ) -> ExportedModel:
        """Write the plain ONNX file of a target as it would be deployed, and measure its parity with the golden.

        Args:
            target: "model", "attention", "attention:N" or "block:N".
            precision: Number format of the file.
            engine: What runs the parity check.
            rtol: Tolerance relative to the golden value.
            calibration_images: Training images that int8 is calibrated on.
            calibration_method: How int8 ranges are found.
            calibration_data: Data set with the training images, where the model's has none.
            batch: Images at a time.
            threads: CPU threads of the engine.
            progress: Called with a `Snapshot` now and then.

        Returns:
            The file, and its parity per confidence tier.

        Raises:
            UsageError: For an unknown engine, precision or target, and for a module without golden.
            EngineError: Where the engine refuses the file, which is written all the same.
        """
        from testbed.export.precision import Calibration
        from testbed.golden.deploy import deploy

        steps = steps_of(progress, "export")
        return ExportedModel(
            deploy(
                self.path,
                target,
                precision,
                engine=engine,
                rtol=rtol,
                calibration=Calibration(calibration_images, calibration_method, calibration_data or "train"),
                batch=batch,
                threads=threads,
                progress=lambda total: steps(total, "images"),
            )
        )

    def export_weights(self, file: File, part: Literal["model", "attention"] = "model") -> Path:
        """Write the weights under vit-pytorch's names, bit for bit.

        Args:
            file: What to write: safetensors if it is called so, else for `torch.load`.
            part: The whole model, or the first attention alone.

        Returns:
            Path of the file.

        Raises:
            UsageError: For a model that vit-pytorch does not have.
        """
        from testbed.models.importers import save_vit_pytorch
        from testbed.models.originals import write_attention_weights
        from testbed.models.runs import open_model_run

        path, write = Path(file), save_vit_pytorch if part == "model" else write_attention_weights
        write(path, open_model_run(self.path).model)
        return path

    def export_originals(self, to: File, name: str = "vit", *, subset: bool = False) -> list[Path]:
        """Write the golden as files of the original attention-subnetwork workflow.

        Args:
            to: Their folder.
            name: NAME in golden_NAME.pt, NAME_attn_dataset.pt and, where there are tiers, NAME_cnf_corr_outT.pt.
            subset: Whether the attention data set is of the subset's images only.

        Returns:
            Paths of the files.

        Raises:
            UsageError: Where the first attention was not recorded, or there is no subset.
        """
        from testbed.golden.originals import export_originals

        return export_originals(self.path, Path(to), name, subset_only=subset)

    def import_originals(
        self,
        golden: File,
        *,
        attention: File | None = None,
        tiers: File | None = None,
        images: tuple[int, int] | None = None,
    ) -> GoldenSummary:
        """Take goldens that the original workflow recorded as the golden of this model.

        Args:
            golden: Logits: golden_*.pt.
            attention: Inputs and outputs of the first attention: *_attn_dataset.pt.
            tiers: Lists of positions: *_cnf_corr_out*.pt.
            images: The test images [a, b) that they are of. Default: all.

        Returns:
            Accuracy, number of images and recorded modules.

        Raises:
            UsageError: For files of another model, or of other images or another order: a few are computed again.
        """
        from testbed.golden.originals import import_originals

        first, second = (None if file is None else Path(file) for file in (attention, tiers))
        taken = import_originals(self.path, Path(golden), attention_file=first, tiers_file=second, images=images)
        return GoldenSummary(taken.content)

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __repr__(self) -> str:
        return f"<testbed.Model in '{self.path}'>"

    def _repr_html_(self) -> str:
        manifest = RunFolder.existing(self.path).manifest
        return html.heading(f"Model {manifest['name']}") + html.facts({"stages done": ", ".join(manifest["stages"])})
