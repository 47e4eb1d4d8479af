"""The campaign's images as people see them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.campaign.files import PICTURES
from testbed.campaign.folder.pictures import LoadImage, as_uint8, read_pictures
from testbed.core.errors import TestbedError
from testbed.data import load

log = logging.getLogger(__name__)


def stored_images(run: Path, manifest: Mapping[str, Any]) -> LoadImage | None:
    """Those kept in the run folder; in one that keeps none, those of the data set its manifest names.

    None, with a logged reason, where the data set is not at hand.
    """
    if (run / PICTURES).is_file():
        return read_pictures(run / PICTURES)
    spec = manifest.get("spec") or {}
    data = spec.get("data") or {}
    if "name" not in data:
        return None
    options = {
        "root": data.get("root"),
        "preprocess": data.get("preprocess"),
        "classes": data.get("classes"),
        "seed": spec.get("seed", 0),
    }
    try:
        test = load(data["name"], **options).test
    except TestbedError as error:
        log.warning("report: no images are shown: %s", error)
        return None
    return lambda image_id: as_uint8(test.pixels(test.position(image_id)))
