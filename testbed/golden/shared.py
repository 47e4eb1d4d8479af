"""Golden arrays that are recorded once per model, images and arithmetic, and shared between run folders by the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import JsonValue

from testbed.core.folder.cache import GOLDENS, Cached
from testbed.core.folder.files import sha256_json
from testbed.data.dataset import Split


def array_name(file: str) -> str:
    """The array's name in a golden's file: "logits", "block.0.attn.input"."""
    return PurePosixPath(file).name.removesuffix(".npy")


@dataclass(frozen=True)
class SharedGolden:
    """What decides a golden's bits: a model (its file's SHA-256), its images as model input, and what computes it.

    The size that images are fed in is not always the model's own: a file may leave it open.

    computed_by: JSON, as `testbed.golden.reference.arithmetic` has it, or of another engine.
    """

    model: str
    images: Split
    computed_by: Mapping[str, JsonValue]

    def write_cached(self, wanted: Mapping[str, Path], rows: Sequence[int] | None = None) -> bool:
        """Writes these arrays (name -> file) and says that it did; no file is left where one of them is missing.

        rows: of so many images only, in this order; of all unless given.
        """
        cached = {name: self.cached(name, rows) for name in wanted}
        if any(array.digest() is None for array in cached.values()):
            return False
        for name, path in wanted.items():
            if cached[name].taken(path) is None:
                for written in wanted.values():
                    written.unlink(missing_ok=True)
                return False
        return True

    def keep(self, made: Mapping[str, Path], rows: Sequence[int] | None = None) -> None:
        for name, path in made.items():
            self.cached(name, rows).keep(path)

    def cached(self, name: str, rows: Sequence[int] | None = None) -> Cached:
        made_from = {
            "array": name,
            "model": self.model,
            "images": self.images.sha256(),
            "preprocess": self.images.preprocess.describe(),
            "image": self.images.image,
            "computed_by": dict(self.computed_by),
            "rows": None if rows is None else [int(row) for row in rows],
        }
        return Cached(GOLDENS, sha256_json(made_from), ".npy")
