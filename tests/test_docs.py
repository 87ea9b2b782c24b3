"""README and docs are true: their examples run, their commands exist, their links lead somewhere.

```python run      is executed; the blocks of a page share names and an empty folder
```console         lines that begin with `$` must be commands that exist, with options that exist
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main

from habitus.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")


@dataclass(frozen=True)
class Block:
    info: str
    line: int
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found, fence, start, lines = [], None, 0, []
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if fence is None and line.startswith("```"):
            fence, start, lines = line[3:].strip(), number, []
        elif fence is not None and line.strip() == "```":
            found.append(Block(fence, start, "\n".join(lines)))
            fence = None
        elif fence is not None:
            lines.append(line)
    assert fence is None, f"{page.name}: the block that begins on line {start} never ends"
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks and inline code."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def of_kind(info: str) -> list[tuple[Path, Block]]:
    return [(page, block) for page in PAGES for block in blocks(page) if block.info == info]


def runnable_pages() -> list[Path]:
    return [page for page in PAGES if any(block.info == "python run" for block in blocks(page))]


def test_there_are_pages_examples_and_commands():
    assert {"README.md", "CONTRIBUTING.md", "docs/design.md", "docs/start.md"} <= set(NAMES)
    assert "README.md" in [str(page.relative_to(ROOT)) for page in runnable_pages()]
    assert len(of_kind("console")) >= 3


def test_python_blocks_are_run_or_said_not_to_be():
    for page, block in ((each, block) for each in PAGES for block in blocks(each)):
        where = f"{page.name}, line {block.line}"
        assert block.info, f"{where}: a block without a language; write ```text if it is none"
        assert block.info.split()[0] != "py", f"{where}: write python"
        assert block.info in ("python run", "python no-run") or not block.info.startswith("python"), (
            f"{where}: say ```python run, or ```python no-run for a fragment"
        )


@pytest.mark.parametrize("page", runnable_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks(page):
        if block.info != "python run":
            continue
        code = compile("\n" * block.line + block.text, str(page), "exec")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, names)


def commands() -> list[tuple[str, str]]:
    """(place, command) of every `$` line; a line ending in a backslash goes on."""
    found = []
    for page, block in of_kind("console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                found.append((f"{page.name}, line {block.line}", line[2:].partition("  #")[0]))
    return found


def test_commands_exist():
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    seen = 0
    for place, command in commands():
        words = shlex.split(command)
        if words[0] == "make":
            goals = [word for word in words[1:] if "=" not in word]
            assert set(goals) <= targets, f"{place}: no make target in {goals}"
        elif words[0].endswith("habitus"):
            seen += 1
            if len(words) == 1 or words[1].startswith("-"):
                continue
            assert words[1] in verbs, f"{place}: no verb {words[1]!r}"
            verb, rest = verbs[words[1]], words[2:]
            if hasattr(verb, "commands") and rest and not rest[0].startswith("-"):
                assert rest[0] in verb.commands, f"{place}: {words[1]} has no verb {rest[0]!r}"
                verb, rest = verb.commands[rest[0]], rest[1:]
            known = {"--help", "-h", *(option for parameter in verb.params for option in parameter.opts)}
            for word in rest:
                assert not word.startswith("-") or word.split("=")[0] in known, f"{place}: {words[1]} has no {word}"
    assert seen >= 3, "no habitus command found in the docs"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path):
    for goal in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", goal):
            continue
        file, _, anchor = goal.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name}: {goal} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name}: no heading for {goal}"


def anchors(page: Path) -> set[str]:
    """The anchors a Markdown page offers: its headings, lower case, spaces as hyphens."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_verb_is_in_the_docs():
    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    shown = {shlex.split(command)[1] for _, command in commands() if command.startswith("habitus ")}
    assert verbs <= shown, f"no example of: {', '.join(sorted(verbs - shown))}"
