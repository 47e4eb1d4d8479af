"""One of the worst faults, ready to be shown: what was struck, what became of the value and of the prediction."""

from __future__ import annotations

import base64
import io
import math
import shlex
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image

from testbed.campaign.folder.pictures import LoadImage
from testbed.core.errors import TestbedError
from testbed.core.formats import Format, format_named
from testbed.core.site import SiteTable
from testbed.report.charts import svg
from testbed.report.formatting import value
from testbed.report.read.worst_rows import WorstFault

_SIDE = 120  # pixels of the shown image
_ENDED = {"crash": "crash", "hang": "hang"}  # no output, so no class
_DONE = {"flip": "flipped", "stuck0": "stuck at 0", "stuck1": "stuck at 1"}


@dataclass(frozen=True)
class FaultCard:
    """``picture``: a data URI, None where the image is not at hand. ``faulty_margin``: None where it is not defined."""

    fault: WorstFault
    picture: str | None
    true_class: str
    golden_class: str
    faulty_class: str
    golden_margin: str
    faulty_margin: str | None
    element: str
    done: str
    before: str
    after: str
    bits: Markup
    replay: str


def fault_card(
    fault: WorstFault, classes: list[str], table: SiteTable | None, load_image: LoadImage | None
) -> FaultCard:
    """A card for one fault. table: the model's site table, for the element's coordinates; None shows the flat index."""
    site, fmt = table[fault.site] if table else None, format_named(fault.format_name)
    command = ["testbed", "fault", "replay", "DIR", str(fault.fault_id), "--image", fault.image_id]
    return FaultCard(
        fault=fault,
        picture=_picture(load_image, fault.image_id),
        true_class=_class_name(fault.label, classes),
        golden_class=_class_name(fault.top1_golden, classes),
        faulty_class=_ENDED.get(fault.due or "") or _class_name(fault.top1_faulty, classes),
        golden_margin=f"{fault.margin_golden:.3f}",
        faulty_margin=None if fault.margin_faulty is None else f"{fault.margin_faulty:.3f}",
        element=_element(fault.index, site.shape if site else None),
        done=_done(fault, fmt),
        before=value(fault.golden_value),
        after=value(fault.faulty_value),
        bits=_bits(fault, fmt),
        replay=shlex.join(command),
    )


def _class_name(number: int, classes: list[str]) -> str:
    if number < 0:
        return "none (NaN)"
    return classes[number] if number < len(classes) else str(number)


def _element(index: int, shape: tuple[int, ...] | None) -> str:
    """ "526 = [16, 14] of 17 x 32"."""
    if shape is None or len(shape) < 2 or index >= math.prod(shape):
        return str(index)
    position = ", ".join(str(int(i)) for i in np.unravel_index(index, shape))
    return f"{index} = [{position}] of {' × '.join(map(str, shape))}"


def _done(fault: WorstFault, fmt: Format) -> str:
    """What was done to the first struck word, and how many there are."""
    if fault.points > 1:
        return f"{_DONE.get(fault.op, fault.op)} with {fault.points - 1} more ({fault.pattern})"
    if fault.bit is None:
        return (
            "replaced by a random word"
            if fault.op == "random"
            else f"{_DONE.get(fault.op, fault.op)} ({fault.pattern})"
        )
    role = "top exponent bit" if fmt.bit_class(fault.bit) == "exponent_top" else fmt.role(fault.bit)
    return f"bit {fault.bit} {_DONE.get(fault.op, fault.op)} ({role})"


def _bits(fault: WorstFault, fmt: Format) -> Markup:
    """The word before and after, most significant bit first; the bits that changed are marked."""
    before, after = fault.golden_word, fault.faulty_word
    digits = fmt.bits // 4
    parts = [svg.tooltip(f"0x{before:0{digits}x} became 0x{after:0{digits}x}")]
    x, previous = 1.0, fmt.role(fmt.bits - 1)
    for bit in range(fmt.bits - 1, -1, -1):
        x, previous = x + 5 * (fmt.role(bit) != previous), fmt.role(bit)
        for row, word in enumerate((before, after)):
            state = "one" if word >> bit & 1 else "zero"
            changed = row == 1 and (before ^ after) >> bit & 1
            parts.append(svg.rect(x, 1 + 11 * row, 7, 9, f"bit {state} changed" if changed else f"bit {state}"))
        x += 9
    return svg.drawing(x + 2, 23, "Bits of the value before (above) and after (below)", parts)


def _picture(load_image: LoadImage | None, image_id: str) -> str | None:
    """PNG data URI of the image, enlarged by whole factors so that its pixels stay sharp."""
    if load_image is None:
        return None
    try:
        pixels = np.asarray(load_image(image_id))
    except TestbedError:
        return None
    image = Image.fromarray(np.ascontiguousarray(pixels))
    factor = max(1, round(_SIDE / max(image.size)))
    enlarged = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if max(enlarged.size) > 2 * _SIDE:
        enlarged.thumbnail((2 * _SIDE, 2 * _SIDE))
    png = io.BytesIO()
    enlarged.save(png, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
