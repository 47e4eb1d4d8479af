"""A campaign's claim to its run folder, and the spec that is recorded there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.campaign.spec import CampaignSpec, parse_spec
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.files import sha256_json
from testbed.core.places import placeless, portable, with_sources
from testbed.core.runfolder import MANIFEST, RunFolder, current_argv


def claimed(path: Path, spec: CampaignSpec, *, redo: bool = False) -> RunFolder:
    """The folder for this campaign, new or begun. Raises UsageError when it holds something else, StaleArtefact when its
    manifest was damaged (unless only a stage was, and ``redo`` says that one is to be forgotten).

    Where the model and the data lie is no part of what a campaign is, so that a copied folder goes on on another
    machine: their content is checked by the stages that read them.
    """
    mine = placeless(spec.identity())

    def same(recorded: Any) -> bool:
        try:
            return placeless(parse_spec(recorded).identity()) == mine
        except UsageError:  # of another version, with other keys
            return False

    return RunFolder.claimed(path, "campaign", spec.name, portable(spec.identity()), current_argv(), same, redo=redo)


def recorded_spec(folder: RunFolder) -> CampaignSpec:
    """The spec a campaign was begun with. Raises UsageError for another kind of folder, StaleArtefact if it was edited."""
    manifest = folder.manifest
    if manifest.get("kind") != "campaign":
        raise UsageError(f"{folder.path} holds no campaign but a {manifest.get('kind')}")
    if manifest.get("identity") != sha256_json(manifest.get("spec")):
        raise StaleArtefact(f"the spec in {folder / MANIFEST} was edited; run the campaign in another folder")
    return parse_spec(with_sources(manifest["spec"], folder.path), str(folder.path))
