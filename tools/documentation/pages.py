"""Every generated page of the site, by its path under docs/."""

from __future__ import annotations

from pathlib import Path

from documentation.api_page import api_page
from documentation.cli_pages import cli_pages
from documentation.column_page import column_page
from documentation.folder_page import folder_page
from documentation.record_pages import bit_error_page, compare_page, lens_page, proof_page, sweep_page
from documentation.spec_page import spec_page
from documentation.summary_page import summary_page
from testbed.campaign.spec.schema import SCHEMA_FILE, schema_text

_CHANGELOG = Path(__file__).resolve().parents[2] / "CHANGELOG.md"


def pages() -> dict[str, str]:
    """Path -> content."""
    return {
        "reference/spec.md": spec_page(),
        f"reference/{SCHEMA_FILE}": schema_text(),
        **{f"reference/cli/{name}": text for name, text in cli_pages().items()},
        "reference/columns.md": column_page(),
        "reference/summary.md": summary_page(),
        "reference/sweep.md": sweep_page(),
        "reference/compare.md": compare_page(),
        "reference/protection.md": proof_page(),
        "reference/ber.md": bit_error_page(),
        "reference/lens.md": lens_page(),
        "reference/folder.md": folder_page(),
        "reference/api.md": api_page(),
        "changelog.md": _CHANGELOG.read_text(),
    }
