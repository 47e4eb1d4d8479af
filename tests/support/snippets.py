"""The fenced snippets of a Markdown document: found, run as a reader would, and held against the output that it shows.

``sh`` and ``python`` are run, one after the other in one folder. ``console`` and ``py`` are for what cannot be run here; a
comment before the fence says why: ``<!-- not run: needs a cluster -->``. A ``text`` block right after a snippet that is run
shows what it prints: numbers, hashes and widths of tables may differ, and ``...`` stands for anything.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

RUN = ("sh", "python")
SHOWN = ("console", "py")

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$", re.DOTALL | re.MULTILINE
)
_REASON = re.compile(r"<!-- not run: (?P<reason>[^>]+?) -->\s*$")
_ONLY_SPACE = re.compile(r"\s*")
_ANYTHING = "..."
_OPERATORS = {"|", "||", "&&", "&", ";", ">", ">>", "<", "<<", ">&", "2>"}


@dataclass(frozen=True)
class Snippet:
    """line: of the fence. shown: what the document says it prints, if it does. reason: why it is not run, if it says so."""

    document: Path
    line: int
    language: str
    code: str
    shown: str | None
    reason: str | None

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def snippets(document: Path) -> list[Snippet]:
    """Every fenced block but the outputs and the data, in order."""
    text = document.read_text()
    blocks = list(_FENCE.finditer(text))
    found = []
    for block, after in zip_longest(blocks, blocks[1:]):
        if block["language"] not in (*RUN, *SHOWN):
            continue
        follows = (
            after is not None
            and after["language"] == "text"
            and _ONLY_SPACE.fullmatch(text, block.end(), after.start())
        )
        reason = _REASON.search(text, 0, block.start())
        found.append(
            Snippet(
                document,
                text.count("\n", 0, block.start()) + 1,
                block["language"],
                inspect.cleandoc(block["code"]) if block["indent"] else block["code"],
                after["code"] if follows and after is not None else None,
                reason["reason"] if reason else None,
            )
        )
    return found


def run_snippet(snippet: Snippet, folder: Path) -> str:
    """What it prints, run in ``folder``. Raises AssertionError where it fails."""
    command = ["bash", "-euo", "pipefail", "-c"] if snippet.language == "sh" else [sys.executable, "-c"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*command, snippet.code],
        cwd=folder,
        env=os.environ | {"PATH": path, "XDG_STATE_HOME": str(folder / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{snippet} ends with exit status {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


def differences(shown: str, printed: str) -> str | None:
    """The first of the shown lines that was not printed after the ones before it; None where all were.

    A page may leave lines out, and should mark that with ``...``; what it shows has to be what is printed.
    """
    lines = iter(_normal(printed))
    for line in _normal(shown):
        if line != _ANYTHING and not any(_fits(line, other) for other in lines):
            return line
    return None


def commands(code: str) -> Iterator[list[str]]:
    """The words of each call of testbed in a shell snippet."""
    plain = re.sub(r"<<'?(\w+)'?\n.*?^\1$", "", code, flags=re.DOTALL | re.MULTILINE).replace("\\\n", " ")
    for line in plain.splitlines():
        lexer = shlex.shlex(re.sub(r"^\s*\$ ", "", line), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _OPERATORS:
                words.append(word)
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and Path(words[0]).name == "testbed":
                yield words[1:]
            words = []


def _normal(text: str) -> list[str]:
    """The lines without what differs from machine to machine: numbers, hashes, and how wide tables are."""
    text = re.sub(r"\b[0-9a-f]{16}\b", "HASH", text)
    text = re.sub(r"(?<![\w.])-?\d[\d,]*(\.\d+)?(e[+-]?\d+)?", "N", text)
    text = re.sub(r"[━─]+", "━", text)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line]


def _fits(shown: str, printed: str) -> bool:
    parts = [re.escape(part) for part in shown.split(_ANYTHING)]
    return re.fullmatch(".*".join(parts), printed) is not None
