"""Images that persistent faults were run on, where these are not all: what the summary says of them."""

from __future__ import annotations

from typing import TypedDict

from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.image_facts import ChosenImages, ImageFacts
from testbed.campaign.prepare.stages import Preparation
from testbed.core.folder.stage_facts import facts_of


class ImagesField(TypedDict, total=False):
    """The field that only a summary of faults on some of the images has."""

    images_each: list[ChosenImages]


def images_field(preparation: Preparation) -> ImagesField:
    """The field, or nothing."""
    chosen = images_each(preparation)
    return {"images_each": chosen} if chosen else {}


def images_each(preparation: Preparation) -> list[ChosenImages]:
    """Says for each place what a pilot decided, or the spec where it asks for fewer than all."""
    folder, spec = preparation.folder, preparation.spec
    workplace = Workplace(folder, spec)
    decided = facts_of(folder, "images", ImageFacts).chosen if spec.auto_places else []
    chosen = {(choice.target, choice.where): choice for choice in decided}
    every = len(workplace.images)
    for target, where in spec.target_places:
        each = workplace.images_each(target, where)
        if (target, where) not in chosen and each < every:
            why = "the spec asks for it"
            chosen[target, where] = ChosenImages(target=target, where=where, images=each, of=every, why=why)
    return list(chosen.values())
