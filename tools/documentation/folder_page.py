"""Reference page of the files in run folders."""

from __future__ import annotations

from documentation.markdown import code, prose, table
from testbed.core.folder.run_files import FOLDERS


def folder_page() -> str:
    """The page."""
    parts = [
        "# Files of a run folder\n",
        "Each file is written whole or not at all, and the manifest has its SHA-256: a file that was edited or cut off is"
        " refused by name, with the stage that makes it again. TARGET is `model` or `attention`, and N a digit.\n",
    ]
    for title, files in FOLDERS.items():
        rows = [[code(file.name), f"`{file.written_by}`", _meaning(file.meaning)] for file in files]
        parts += [f"## {title}\n", table(["file", "written by", "what it holds"], rows)]
    return "\n".join(parts)


def _meaning(text: str) -> str:
    """As it is where it links to another page, else as plain text."""
    return text if "](" in text else prose(text)
