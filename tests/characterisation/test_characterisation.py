"""Rows and summaries of five campaigns are those of the recorded revision, bit for bit; see record.py for how to record."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.characterisation.campaigns import CAMPAIGNS, in_this_process
from tests.characterisation.environment import Environment, environment
from tests.characterisation.fingerprint import differences, of_folder
from tests.characterisation.recorded import COMMAND, nearest_record, read_records, record_of


@pytest.fixture(scope="module")
def here(cache_dir: Path) -> Environment:
    return environment(in_this_process)


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_rows_and_summary_are_as_recorded(name: str, here: Environment, tmp_path: Path) -> None:
    campaign, records = CAMPAIGNS[name], read_records()
    if campaign.kernel is not None and not here["kernels"][campaign.kernel]:
        pytest.skip(f"{name} needs the {campaign.kernel}, which is not available; `testbed doctor` says how to have it")
    campaign.run(in_this_process, tmp_path / name)
    found = of_folder(tmp_path / name, adaptive=campaign.adaptive)
    same = record_of(here, records)
    if same is not None:
        changed = differences(same.campaigns[name], found)
        assert not changed, f"not as at {same.revision}; if that is meant: {COMMAND} --only {name}\n" + "\n".join(
            changed
        )
        return
    near = nearest_record(here, records)
    other = "; ".join(differences(near.environment, here))
    changed = differences(near.campaigns[name]["portable"], found["portable"])
    sites = [line for line in changed if line.startswith("sites.")]
    if sites:  # exporters may name more tensors of a quantised file, and engines read fewer weights in place
        pytest.skip(f"other sites than in the recorded environment, so no fault can be compared ({other})")
    assert not changed, f"drawn faults not as at {near.revision} ({other})\n" + "\n".join(changed)
    pytest.skip(
        f"the drawn faults are as recorded; outputs are of another environment ({other}): at a revision whose rows"
        f" are right, run {COMMAND}"
    )
