"""Reference page of the keys of a campaign's summary."""

from __future__ import annotations

from documentation.markdown import anchored, prose, table
from testbed.campaign.summary.keys import SUMMARY_KEYS


def summary_page() -> str:
    """The page."""
    rows = [[anchored(key.name, key.name.replace("[]", "")), prose(key.meaning)] for key in SUMMARY_KEYS]
    return "\n".join(
        [
            "# Keys of the summary\n",
            "`summary.json` in the run folder is what `testbed campaign run --json` and `testbed campaign show --json` print."
            " Rates are weighted, and mix no two fault models (target, where, op, pattern, scope). `[]` stands after a list.\n",
            table(["key", "meaning"], rows),
        ]
    )
