"""The pictures of a model, or of a faulty run, by name; and how they are written.

    DIR/attention.html      one page with all of them, which needs nothing else
    DIR/attention.json      the numbers: distances, top-1, what was drawn
    DIR/distances.csv       attention distance of every head

and, asked for, a file of each picture:

    DIR/position_similarity.svg
    DIR/attention_distance.svg
    DIR/IMAGE/rollout.svg
    DIR/IMAGE/all_layers.svg
    DIR/IMAGE/last_layer/heads.svg, mean.svg, head_0.svg, ..., differential.svg
    DIR/IMAGE/fault_ID.svg
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from testbed.core.folder.figures import FigureFormat, figure_bytes
from testbed.core.folder.files import csv_text, write_bytes, write_text
from testbed.core.words import html
from testbed.sensitivity.attention_maps import draw
from testbed.sensitivity.attention_maps.distance import HeadDistance
from testbed.sensitivity.attention_maps.gather import ImageAttention

_DPI = 100
PAGE, NUMBERS, DISTANCES = "attention.html", "attention.json", "distances.csv"
_MIME = {"svg": "image/svg+xml", "png": "image/png"}


def image_pictures(
    image_id: str, picture: NDArray[np.float32], attention: ImageAttention, *, each_head: bool
) -> dict[str, Figure]:
    """File name without ending -> figure. picture: de-normalised, (S, S) or (S, S, 3). each_head: also one of each
    head alone."""
    folder = folder_of(image_id)
    last = attention.last
    pictures = {
        f"{folder}/rollout": draw.overlay_figure(picture, attention.rollout, f"{image_id}: attention rollout"),
        f"{folder}/all_layers": draw.layers_figure(attention, f"{image_id}: mean over the heads, every block"),
        f"{folder}/last_layer/heads": draw.heads_figure(attention, f"{image_id}: heads of block {last.block}"),
    }
    both = draw.differential_figure(attention, f"{image_id}: differential attention, block {last.block}")
    if both is not None:
        pictures[f"{folder}/last_layer/differential"] = both
    if each_head:
        signed = last.mix is not None
        alone = {f"head_{head}": values for head, values in enumerate(last.maps)} | {"mean": last.mean}
        for name, values in alone.items():
            title = f"{image_id}: block {last.block}, {name.replace('_', ' ')}"
            pictures[f"{folder}/last_layer/{name}"] = draw.maps_figure({"": values}, title, signed=signed)
    return pictures


def folder_of(image_id: str) -> str:
    """A folder's name for an image: nothing of it leads out of the folder that pictures are written to."""
    kept = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in image_id)
    return kept or "_"


def write_pictures(folder: Path, pictures: Mapping[str, Figure], form: FigureFormat) -> list[Path]:
    """Write each into its own file; returns their paths."""
    paths = [folder / f"{name}.{form}" for name in pictures]
    for path, figure in zip(paths, pictures.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, figure_bytes(figure, form, _DPI))
    return paths


def write_page(
    folder: Path, title: str, facts: Mapping[str, object], pictures: Mapping[str, Figure], form: FigureFormat
) -> Path:
    """One page with every picture in it."""
    body = [f"<h1>{html.escaped(title)}</h1>", html.facts(facts)]
    body += [html.picture(name, figure_bytes(figure, form, _DPI), _MIME[form]) for name, figure in pictures.items()]
    write_text(folder / PAGE, html.page(title, body))
    return folder / PAGE


def write_numbers(folder: Path, record: Mapping[str, Any], distances: Sequence[HeadDistance]) -> list[Path]:
    """The record, and the distances as a table."""
    write_text(folder / NUMBERS, json.dumps(record, indent=1, allow_nan=False) + "\n")
    rows = [distance.to_json() for distance in distances]
    if not rows:
        return [folder / NUMBERS]
    write_text(folder / DISTANCES, csv_text(rows))
    return [folder / NUMBERS, folder / DISTANCES]
