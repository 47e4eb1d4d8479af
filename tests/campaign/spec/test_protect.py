"""The [protect] table takes what `testbed protect` takes, and says which key is wrong."""

from __future__ import annotations

import pytest

from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.spec.protect import ProtectSpec
from testbed.cli.commands.model.protect import run
from testbed.core.errors import UsageError
from tests.support.campaigns import tiny_values

OF_THE_CAMPAIGN = {
    "precision",
    "engine",
    "to",
    "data",
    "root",
    "preprocess",
    "classes",
    "campaign",
    "dry-run",
    "json",
    "help",
}
"""Options whose part the campaign's other tables take, and those of a command alone."""


def test_keys_are_the_options_of_the_command() -> None:
    options = {name.removeprefix("--") for option in run.params for name in option.opts if name.startswith("--")}
    keys = {(field.alias or name).replace("_", "-") for name, field in ProtectSpec.model_fields.items()}
    assert keys == options - OF_THE_CAMPAIGN


@pytest.mark.parametrize("where", ["", "range:", "*.attn.v,,norm"])
def test_a_pattern_has_letters(where: str) -> None:
    with pytest.raises(UsageError, match=r"protect\.where\[0\]: .* has a pattern of no letters"):
        parse_spec(tiny_values() | {"protect": {"with": ["range"], "where": [where]}})
