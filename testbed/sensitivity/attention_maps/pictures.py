"""The pictures of a model, or of a faulty run, by name; and how they are written.

    DIR/attention.html      one page with all of them, which needs nothing else
    DIR/attention.json      the numbers: distances, top-1, what was drawn
    DIR/distances.csv       attention distance of every head

and, asked for, a file of each picture, in the folders that studies of Vision Transformers publish them in:

    DIR/position_similarity.svg
    DIR/attention_distance.svg
    DIR/IMAGE/rollout.svg
    DIR/IMAGE/all_layers.svg
    DIR/IMAGE/last_layer/heads.svg, mean.svg, head_0.svg, ..., differential.svg
    DIR/IMAGE/fault_ID.svg
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from testbed.core.folder.files import write_bytes, write_text
from testbed.core.words import html
from testbed.sensitivity.attention_maps import draw
from testbed.sensitivity.attention_maps.distance import HeadDistance
from testbed.sensitivity.attention_maps.gather import ImageAttention

PictureFormat = Literal["svg", "png"]
PAGE, NUMBERS, DISTANCES = "attention.html", "attention.json", "distances.csv"
_MIME = {"svg": "image/svg+xml", "png": "image/png"}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 1rem 0; overflow-x: auto; }
img { background: #fff; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .8rem .15rem 0; text-align: left; border-bottom: 1px solid #8884; }
"""


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


def picture_bytes(figure: Figure, form: PictureFormat) -> bytes:
    """The figure as a file; the same bytes each time."""
    stream = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if form == "svg" else {"Software": None}
    figure.savefig(stream, format=form, dpi=100, metadata=metadata)
    return stream.getvalue()


def write_pictures(folder: Path, pictures: Mapping[str, Figure], form: PictureFormat) -> list[Path]:
    """Write each into its own file; returns their paths."""
    paths = [folder / f"{name}.{form}" for name in pictures]
    for path, figure in zip(paths, pictures.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, picture_bytes(figure, form))
    return paths


def write_page(
    folder: Path, title: str, facts: Mapping[str, object], pictures: Mapping[str, Figure], form: PictureFormat
) -> Path:
    """One page with every picture in it."""
    body = [f"<h1>{html.escaped(title)}</h1>", html.facts(facts)]
    for name, figure in pictures.items():
        source = base64.b64encode(picture_bytes(figure, form)).decode()
        body.append(f'<figure><img alt="{html.escaped(name)}" src="data:{_MIME[form]};base64,{source}"></figure>')
    head = f'<meta charset="utf-8"><title>{html.escaped(title)}</title><style>{_STYLE}</style>'
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"
    write_text(folder / PAGE, page)
    return folder / PAGE


def write_numbers(folder: Path, record: Mapping[str, Any], distances: Sequence[HeadDistance]) -> list[Path]:
    """The record, and the distances as a table."""
    write_text(folder / NUMBERS, json.dumps(record, indent=1, allow_nan=False) + "\n")
    rows = [distance.to_json() for distance in distances]
    if not rows:
        return [folder / NUMBERS]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / DISTANCES, stream.getvalue())
    return [folder / NUMBERS, folder / DISTANCES]
