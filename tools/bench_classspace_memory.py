"""How much memory class space takes of a ViT of base size (224 px, patch 16, width 768, 12 blocks, 1,000 classes).

    python tools/bench_classspace_memory.py [--images 28 55] [--parts identifiability probe ...] [--small] [--json]

The weights are random, and the images one colour each: memory depends on neither. Each part is a process of its own, at
each number of images; the peak is all of its resident memory, Python, PyTorch and the model included. What a part keeps
of each image is what its peak grows by from the first number of images to the last, so both are a batch (27 images) and a
bit more at least. Probes are fitted to as many images as are tested, where a study takes some of each class: their sums
are as large whatever the number. Every forward pass of all parts is on one thread.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import testbed
from testbed.golden.source import dataset_of
from testbed.models.runs import open_model_run
from testbed.sensitivity.class_space.probe import probe_layers, probe_positions

LIMIT_MIB = 3 * 1024  # of any part
MANY = 10_000  # images that the peak is extrapolated to


@dataclass(frozen=True)
class Size:
    """Of a Vision Transformer whose heads are 64 wide, and of its images."""

    image: int
    patch: int
    width: int
    blocks: int
    classes: int


BASE = Size(224, 16, 768, 12, 1000)
SMALL = Size(16, 4, 64, 2, 6)


def random_run(folder: Path, size: Size, images: int) -> Path:
    """A run folder of random weights in timm's layout, with a data set of one colour each, their labels in turn, and
    masks of them all: the left half."""
    rng = np.random.default_rng(0)
    for number in range(max(2 * images, size.classes)):
        for part in ("train", "test"):
            path = folder / "images" / part / f"class-{number % size.classes:04d}" / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            colour = tuple(int(value) for value in rng.integers(0, 256, 3))
            Image.new("RGB", (size.image, size.image), colour).save(path)
        mask = np.zeros((size.image, size.image), np.uint8)
        mask[:, : size.image // 2] = 255
        path = folder / "masks" / "test" / f"class-{number % size.classes:04d}" / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    torch.manual_seed(0)
    weights = {name: 0.02 * torch.randn(shape) for name, shape in timm_shapes(size).items()}
    torch.save(weights, folder / "weights.pth")
    run = folder / "run"
    testbed.import_model(
        folder / "weights.pth",
        run,
        layout="timm",
        settings={"heads": size.width // 64},
        data=f"imagefolder:{folder / 'images'}",
        preprocess="half",
    )
    return run


def timm_shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """The names and shapes of timm's VisionTransformer."""
    width, tokens = size.width, (size.image // size.patch) ** 2 + 1
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens, width),
        "patch_embed.proj.weight": (width, 3, size.patch, size.patch),
        "patch_embed.proj.bias": (width,),
    }
    for block in range(size.blocks):
        layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        layers |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{name}.{part}": (width,) for part in ("weight", "bias")}
        for name, shape in layers.items():
            shapes |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    return shapes | {"head.weight": (size.classes, width), "head.bias": (size.classes,)}


def identifiability(folder: Path, images: int) -> None:
    """Of the model and of random weights, with the memories."""
    testbed.measure_class_space(
        folder / "run",
        folder / "out",
        analyses=("identifiability", "memories"),
        images=images,
        baseline_images=images,
    )


def perturbation(folder: Path, images: int) -> None:
    """Attention cut between tokens, and tokens dropped by masks."""
    masks = folder / "masks"
    testbed.measure_class_space(folder / "run", folder / "out", analyses=("perturbation",), images=images, masks=masks)


def explanation(folder: Path, images: int) -> None:
    """Relevance by every method, and the curves."""
    testbed.measure_class_space(folder / "run", folder / "out", analyses=("explanation",), explain_images=images)


def probe(folder: Path, images: int) -> None:
    """Probes at the positions that a study takes by itself."""
    run = open_model_run(folder / "run")
    data, config = dataset_of(run), run.model.config
    some = range(images)
    probe_layers(run.model, data.train.subset(some), data.test.subset(some), positions=probe_positions(config, "auto"))


def attention(folder: Path, images: int) -> None:
    """`testbed attention`: maps of four images, distances over all of ``images``."""
    testbed.measure_attention(folder / "run", folder / "out", over=images)


PARTS: dict[str, Callable[[Path, int], None]] = {
    part.__name__: part for part in (identifiability, perturbation, explanation, probe, attention)
}


def peak_mib() -> float:
    """Most memory that this process had, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measured(part: str, folder: Path, images: int) -> float:
    """The peak of a process that runs the part, MiB."""
    print(f"{part}, {images} images", file=sys.stderr)
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder), "--images", str(images)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def summary(part: str, peaks: dict[int, float]) -> dict[str, Any]:
    """Peaks by number of images, what each more image takes, and what many would."""
    few, many = min(peaks), max(peaks)
    each = max(0.0, (peaks[many] - peaks[few]) / (many - few)) if many > few else None
    at_many = None if each is None else peaks[many] + each * (MANY - many)
    return {
        "part": part,
        "peak_mib": {str(images): round(peak, 1) for images, peak in peaks.items()},
        "of_limit": round(max(peaks.values()) / LIMIT_MIB, 3),
        "mib_per_image": None if each is None else round(each, 4),
        "peak_mib_at_10000": None if at_many is None else round(at_many, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[28, 55], help="numbers of images")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--small", action="store_true", help="a small model, to try the tool")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.part:
        PARTS[arguments.part](arguments.folder, arguments.images[0])
        print(peak_mib())
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        random_run(folder, SMALL if arguments.small else BASE, max(arguments.images))
        for part in arguments.parts:
            peaks = {images: measured(part, folder, images) for images in sorted(set(arguments.images))}
            rows.append(summary(part, peaks))
    if arguments.json:
        print(json.dumps({"limit_mib": LIMIT_MIB, "parts": rows}, indent=1))
        return
    for row in rows:
        peaks_text = ", ".join(f"{peak:.0f} MiB of {images} images" for images, peak in row["peak_mib"].items())
        print(f"{row['part']:16} {peaks_text}; {100 * row['of_limit']:.0f} % of {LIMIT_MIB} MiB")


if __name__ == "__main__":
    main()
