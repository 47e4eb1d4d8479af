"""Every snippet of the README and the tutorials is run, or says why not; every command in the documentation exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from testbed.cli.main import cli
from tests.support.snippets import RUN, SHOWN, commands, differences, run_snippet, snippets

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
WITH_A_CAMPAIGN = ("README.md", "python.md")  # their Python opens runs/digits
QUICK = ("README.md", "python.md", "data-set.md")
RUN_PAGES = [
    page
    for page in [README, *TUTORIALS, ROOT / "docs" / "how-to" / "python.md", ROOT / "docs" / "how-to" / "data-set.md"]
    if any(snippet.language in RUN for snippet in snippets(page))
]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if page.name in QUICK else [pytest.mark.slow], id=name_of(page))
        for page in RUN_PAGES
    ],
)
def test_the_snippets_of_a_page_run_and_print_what_it_shows(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if page.name in WITH_A_CAMPAIGN:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "digits").symlink_to(request.getfixturevalue("digits_run"))
    wrong = []
    for snippet in snippets(page):
        if snippet.language in RUN and snippet.reason is None:
            printed = run_snippet(snippet, tmp_path)
            if snippet.shown is not None and (line := differences(snippet.shown, printed)):
                wrong.append(f"{snippet}: {line}\n--- printed:\n{printed}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", [README, *TUTORIALS], ids=name_of)
def test_a_snippet_that_is_not_run_says_why(page: Path) -> None:
    assert [str(snippet) for snippet in snippets(page) if snippet.language in SHOWN and not snippet.reason] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_that_a_page_names_exists(page: Path) -> None:
    wrong = [told for words in commands_of(page) if (told := unknown_part(words))]
    assert wrong == []


def commands_of(page: Path) -> Iterator[list[str]]:
    """In snippets, and in the text as code that begins with testbed."""
    for snippet in snippets(page):
        if snippet.language in ("sh", "console"):
            yield from commands(snippet.code)
    outside = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`(testbed [^`]+)`", outside):
        yield from commands(code.replace("\n", " "))


def unknown_part(words: list[str]) -> str | None:
    """The first command or option that is not there. Words in capitals stand for something; "..." for more."""
    command: click.Command = cli
    context = click.Context(cli, info_name="testbed")
    for number, word in enumerate(words):
        if word.startswith("-") and not re.fullmatch(r"-[\d.]+", word):
            known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            defaulted = getattr(command, "default", None)  # a group that means one of its commands
            if isinstance(command, click.Group) and defaulted:
                known |= {name for option in command.commands[defaulted].params for name in option.opts}
            if word.partition("=")[0] not in known | set(cli.context_settings["help_option_names"]):
                return " ".join(words[: number + 1])
        elif isinstance(command, click.Group) and re.fullmatch(r"[a-z-]+", word):
            inner = command.get_command(context, word)
            if inner is None and not hasattr(command, "default") and not _is_value(words, number, command):
                return " ".join(words[: number + 1])
            if inner is not None:
                command = inner
                context = click.Context(inner, info_name=word, parent=context)
    return None


def _is_value(words: list[str], number: int, command: click.Command) -> bool:
    """Of an option before it."""
    return number > 0 and words[number - 1].startswith("--") and words[number - 1] != "--help"


# ---- the runner itself


@pytest.mark.parametrize(
    ("shown", "printed", "wrong"),
    [
        ("a 1.5 b\n", "a 2,000 b\n", None),
        ("hash 0123456789abcdef\n", "hash fedcba9876543210\n", None),
        ("a\n...\nc\n", "a\nb\nb\nc\n", None),
        ("...\nc\n", "a\nc\n", None),
        ("a\n...\n", "a\nb\n", None),
        ("rates, ...\n", "rates, and more\n", None),
        ("│ a │ 1 │\n", "│ a    │  12 │\n", None),
        ("a\nb\n", "a\n", "b"),
        ("a\n", "a\nb\n", None),
        ("a\n...\nb\n", "a\nc\n", "b"),
        ("a\nb\n", "a\nc\nb\n", None),
        ("a\nb\n", "b\na\n", "b"),
        ("-1.5 to 2e-07\n", "0.25 to -3\n", None),
    ],
)
def test_an_output_is_held_against_the_page(shown: str, printed: str, wrong: str | None) -> None:
    assert differences(shown, printed) == wrong


def test_snippets_are_found_with_what_they_print_and_why_they_are_not_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\ntestbed cache\n```\n\n```text\nempty\n```\n\n<!-- not run: needs a GPU -->\n"
        "```console\n$ testbed doctor\n```\n\n"
        "```toml\nname = 1\n```\n\n=== tab\n\n    ```python\n    print(1)\n    ```\n"
    )
    first, second, third = snippets(page)
    assert (first.language, first.code, first.shown, first.reason) == ("sh", "testbed cache\n", "empty\n", None)
    assert (second.language, second.reason, second.shown) == ("console", "needs a GPU", None)
    assert (third.language, third.code, third.line) == ("python", "print(1)", 20)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("testbed cache  # a comment", [["cache"]]),
        ("$ tools/testbed campaign run a.toml \\\n    --run b", [["campaign", "run", "a.toml", "--run", "b"]]),
        ("X=1 testbed data list | grep testbed", [["data", "list"]]),
        ("cat > a <<'END'\ntestbed = 1\nEND\ntestbed -V", [["-V"]]),
        ("testbed campaign run a > b && testbed report a", [["campaign", "run", "a"], ["report", "a"]]),
    ],
)
def test_the_commands_of_a_snippet(code: str, words: list[list[str]]) -> None:
    assert list(commands(code)) == words


@pytest.mark.parametrize(
    ("words", "unknown"),
    [
        ("campaign run a.toml --dry-run", None),
        ("campaign walk", "campaign walk"),
        ("campaign run a.toml --dry", "campaign run a.toml --dry"),
        ("golden runs/vit --images 3", None),
        ("golden verify runs/vit --engine torch", None),
        ("--plugin my_data.py data check stripes", None),
        ("walk", "walk"),
        ("COMMAND -h", None),
    ],
)
def test_an_unknown_command_or_option_is_named(words: str, unknown: str | None) -> None:
    assert unknown_part(words.split()) == unknown
