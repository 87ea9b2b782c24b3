"""The command line: every verb explains itself, and every failure is readable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

import habitus
from habitus.cli.failures import INTERRUPTED, guarded
from habitus.cli.main import VERBS, app
from habitus.core.errors import SourceError

SCHEMA = '[events]\nuser = "customer"\ntime = "when"\ntype = { constant = "visit" }\n'


def run(*words: str):
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.toml").write_text(SCHEMA, "utf-8")
    pl.DataFrame({"customer": ["a", "b"], "when": ["2024-05-01", "2024-05-02"]}).write_csv(tmp_path / "events.csv")
    return tmp_path


@pytest.mark.parametrize("verb", [verb.__name__ for verb in VERBS])
def test_each_verb_explains_itself(verb: str):
    answer = run(verb, "--help")
    assert answer.exit_code == 0
    first = answer.stdout.split("\n\n")[1].strip()
    assert first.endswith(".")
    assert first in run("--help").stdout, "the list of verbs cuts its first line short"
    for name, text in _options(answer.stdout).items():
        assert len(text.split()) >= 2, f"{verb} {name} does not say what it is"


def _options(text: str) -> dict[str, str]:
    rows = [line.strip() for line in text.splitlines() if line.strip().startswith("--")]
    return {row.split()[0]: row for row in rows}


def test_version_and_bare_command():
    assert run("--version").stdout == f"habitus {habitus.__version__}\n"
    assert "ingest" in run().output


def test_ingest_says_what_it_kept(shop: Path):
    answer = run("ingest", "events.csv", "--schema", "shop.toml", "--out", "shop.store")
    assert answer.exit_code == 0, answer.output
    lines = {line[:14].strip(): line[14:].strip() for line in answer.stdout.splitlines()[1:]}
    assert lines["users"] == "2"
    assert lines["rows read"] == "2 = 2 kept + 0 rejected"


def test_infer_writes_a_schema_that_ingest_reads(shop: Path):
    answer = run("ingest", "events.csv", "--infer", "--schema", "draft.toml")
    assert answer.exit_code == 0, answer.output
    assert "draft.toml" in answer.stdout
    stored = run("ingest", "events.csv", "--schema", "draft.toml", "--out", "shop.store")
    assert stored.exit_code == 0, stored.output
    again = run("ingest", "events.csv", "--infer", "--schema", "draft.toml")
    assert again.exit_code == 1
    assert "exists" in again.stderr


def test_append_adds_days(shop: Path):
    assert run("ingest", "events.csv", "--schema", "shop.toml", "--out", "shop.store").exit_code == 0
    pl.DataFrame({"customer": ["a"], "when": ["2024-05-09"]}).write_csv(shop / "later.csv")
    answer = run("append", "shop.store", "later.csv")
    assert answer.exit_code == 0, answer.output
    assert "2024-05-01 to 2024-05-09" in answer.stdout
    nothing = run("append", "no.store", "later.csv")
    assert nothing.exit_code == 1
    assert "habitus ingest" in nothing.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ingest", "evnts.csv", "--schema", "shop.toml", "--out", "x.store"), "did you mean events.csv?"),
        (("ingest", "events.csv", "--out", "x.store"), "--infer"),
        (("ingest", "events.csv", "--schema", "shop.tml", "--out", "x.store"), "did you mean shop.toml?"),
        (("ingest", "events.csv", "--schema", "shop.toml"), "--out"),
        (("ingest", "online_retal", "--out", "x.store"), "did you mean 'online_retail'?"),
        (("ingest", "oulad", "--out", "x.store"), "add --folder DIR"),
        (("ingest", "postgresql://me:secret@localhost/shop", "--schema", "shop.toml", "--out", "x.store"), "--query"),
        (("ingest", "events.csv", "--schema", "shop.toml", "--audiences", "a.csv", "--out", "x"), "add --calendar"),
        (("ingest", "events.csv", "--schema", "shop.toml", "--max-rejected", "5", "--out", "x"), "0.05 means 5 %"),
        (("simulate", "efects", "--out", "x"), "did you mean 'effects'?"),
        (("simulate", "world.toml", "--out", "x"), "no such file"),
    ],
)
def test_a_failure_is_four_plain_lines_and_exit_code_1(shop: Path, words: tuple[str, ...], expected: str):
    answer = run(*words)
    assert answer.exit_code == 1
    assert answer.stdout == ""
    assert expected in answer.stderr
    assert answer.stderr.startswith("expected ")
    assert "Traceback" not in answer.stderr
    assert "secret" not in answer.stderr
    assert not [path.name for path in shop.iterdir() if path.name.startswith(("x", ".partial"))]


def test_a_real_process_exits_with_1_and_shows_no_traceback(shop: Path):
    command = [sys.executable, "-c", "from habitus.cli.main import app; app()", "ingest", "nowhere.csv", "--out", "x"]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (plain.returncode, plain.stdout) == (1, "")
    assert "Traceback" not in plain.stderr
    loud = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HABITUS_TRACEBACK": "1"}
    )
    assert loud.returncode == 1
    assert "Traceback" in loud.stderr


def test_an_unknown_verb_or_option_names_the_nearest():
    assert "Did you mean 'ingest'" in run("ingset").stderr
    answer = run("ingest", "a", "--oot", "b")
    assert answer.exit_code == 2
    assert "--out" in answer.stderr


def test_an_interrupt_says_how_to_go_on(capsys: pytest.CaptureFixture[str]):
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as caught:
        guarded(stop)()
    assert caught.value.exit_code == INTERRUPTED
    assert "same command again" in capsys.readouterr().err


def test_a_wrapped_verb_keeps_its_answer_and_raises_other_errors():
    assert guarded(lambda: 3)() == 3
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 / 0)()


def test_errors_are_raised_when_asked_for(monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise SourceError("a file", "none")

    monkeypatch.setenv("HABITUS_TRACEBACK", "1")
    with pytest.raises(SourceError):
        guarded(fail)()


def test_simulate_writes_a_world_that_ingest_reads(tmp_path: Path):
    answer = run("simulate", "late", "--out", str(tmp_path / "w"), "--users", "30", "--days", "70", "--seed", "2")
    assert answer.exit_code == 0, answer.output
    store = run("ingest", "simulator", "--folder", str(tmp_path / "w"), "--out", str(tmp_path / "w.store"))
    assert store.exit_code == 0, store.output
    assert "visit" in store.stdout
