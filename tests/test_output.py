"""Nothing is printed past the places that make foreign text harmless: `cli.common`, and `core.console`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import testbed

PACKAGE = Path(testbed.__file__).parent
MAY_PRINT = {
    "cli/common.py",  # emit, say, Failure
    "cli/bugs.py",  # a line made visible
    "cli/main.py",  # the version
    "cli/commands/machine/help.py",  # what a command says of itself
    "cli/commands/campaign/plan.py",  # JSON, part by part
    "core/words/console.py",
}


def written_past(tree: ast.Module) -> Iterator[str]:
    """What would print text as it is: print, click.echo, a stream's write, rich's own Console, markup."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="print" | "Console" as name)):
                yield f"{name}()"
            case ast.Call(func=ast.Attribute(attr="echo" | "secho" | "from_markup" as name)):
                yield f"{name}()"
            case ast.Call(func=ast.Attribute(attr="write", value=ast.Attribute(attr="stdout" | "stderr"))):
                yield "write()"
            case ast.ImportFrom(module="rich") if any(name.name == "print" for name in node.names):
                yield "rich.print"


def test_nothing_is_printed_past_the_one_place() -> None:
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        if name not in MAY_PRINT and (past := list(written_past(ast.parse(file.read_text())))):
            found[name] = past
    assert found == {}, (
        "use emit, say or console() of testbed.cli.common, or plain_console of testbed.core.words.console"
    )


def test_what_would_print_is_recognised() -> None:
    code = "print(1); click.echo(2); Console(); sys.stderr.write(3); Text.from_markup(4)\nfrom rich import print"
    assert len(list(written_past(ast.parse(code)))) == 6
