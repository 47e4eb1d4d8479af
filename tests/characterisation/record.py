"""Record the rows and summaries of the characterised campaigns, as hashes, in recorded.json.

    python -m tests.characterisation.record                              # of this checkout, in this environment
    python -m tests.characterisation.record --python REF/.venv/bin/python  # of another checkout's testbed
    python -m tests.characterisation.record --only int8                  # one campaign; the others stay as recorded

Run it from the root of the checkout. It takes the entry of the present environment out of recorded.json, where there is
one, and writes another; entries of other environments stay. Record from the revision BEFORE a change that must keep the
rows. Record again only after a change that is meant to alter rows or summaries, and say in its commit which and why.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.characterisation.campaigns import CAMPAIGNS, testbed_of
from tests.characterisation.environment import environment
from tests.characterisation.fingerprint import differences, of_folder
from tests.characterisation.recorded import FILE, Record, read_records, record_of, write_records


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="record"
    )
    parser.add_argument(
        "--python", default=sys.executable, help="the interpreter whose testbed is recorded: this one's"
    )
    parser.add_argument("--only", choices=CAMPAIGNS, action="append", help="repeatable; all campaigns unless given")
    arguments = parser.parse_args()
    testbed = testbed_of(arguments.python)
    here, records = environment(testbed), read_records()
    earlier = record_of(here, records)
    campaigns = dict(earlier.campaigns) if earlier else {}
    for name in arguments.only or CAMPAIGNS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            CAMPAIGNS[name].run(testbed, folder)
            found = of_folder(folder, adaptive=CAMPAIGNS[name].adaptive)
        changed = differences(campaigns[name], found) if name in campaigns else ["recorded for the first time"]
        print(f"{name}: {found['exact']['results']['rows']:,} rows;", "\n  ".join(changed) or "as recorded before")
        campaigns[name] = found
    record = Record(
        _revision(testbed(["--version"])), here, {name: campaigns[name] for name in CAMPAIGNS if name in campaigns}
    )
    write_records([*(other for other in records if other is not earlier), record])
    print(f"written: {FILE}, of revision {record.revision}")


def _revision(versions: str) -> str:
    """Of `testbed --version`: the line of Git where the testbed is a checkout, else the version."""
    first, *others = versions.splitlines()
    return next((line.removeprefix("git ") for line in others if line.startswith("git ")), first)


if __name__ == "__main__":
    main()
