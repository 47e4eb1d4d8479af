"""Campaign specs: keys that are absurd, files that are damaged. Most are only looked at; some of those are run as well."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from malformed_inputs.case import Base, Case
from malformed_inputs.values import as_toml, damaged, random_edit

_RUN = 0.15  # of the specs: not only --dry-run
_SET = 0.15  # of the edits: by --set, on the sound file


def cases(base: Base, rng: np.random.Generator) -> Iterator[Case]:
    spec = tomllib.loads(base.spec)
    while True:
        dry = [] if rng.random() < _RUN else ["--dry-run"]
        if rng.random() < 0.3:
            name, content = damaged(base.spec.encode(), rng)
        else:
            name, tree = random_edit(spec, rng)
            content = as_toml(tree).encode("utf-8", "surrogatepass")
        if rng.random() < _SET and "=" in name:
            key, _, value = name.partition(" = ")
            change = f"{key}={value}".replace("\0", "")
            yield Case("spec", f"--set {change}", partial(_with_set, base.spec, change, dry))
        else:
            yield Case("spec", f"{name}{'' if dry else ', run'}", partial(_as_file, content, dry))


def _as_file(content: bytes, dry: Sequence[str], folder: Path) -> list[str]:
    (folder / "spec.toml").write_bytes(content)
    return ["campaign", "run", "spec.toml", "--run", "run", *dry]


def _with_set(spec: str, change: str, dry: Sequence[str], folder: Path) -> list[str]:
    (folder / "spec.toml").write_text(spec)
    return ["campaign", "run", "spec.toml", "--run", "run", "--set", change, *dry]
