"""Scoring by shard: each shard of a store is one job, for this process or for workers, and one file of the answer.

    OUT.parts/plan.json        what is asked: run, model, store, arguments; another question is an error
    OUT.parts/00000.parquet    the answers for the users of shard 0
    OUT.parts/00000.json       that they are whole: rows, users, hash; written last

A job that was done is not done again, so a killed call goes on, and a shard that was handed out twice gives the same
file. The manifest beside OUT comes last and lists every shard of the store once: the proof that nobody was left out.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from habitus.core.atomic import new_file, remove_partial, write_json
from habitus.core.engine import EngineConfig, do_jobs
from habitus.core.errors import ConfigError, CutoffError, DiskError, FingerprintError, StoreError
from habitus.core.progress import bar
from habitus.data.calendar import to_date, to_day
from habitus.data.part import check_same, part_of
from habitus.data.shards import sha256
from habitus.data.store import Store
from habitus.models.artifact import Artifact, load_artifact
from habitus.tasks.run import Run, open_run


@dataclass(frozen=True)
class Question:
    """What every worker must know to answer for a shard. `answer` gives the table for a part of the store, or None."""

    answer: Callable[..., pl.DataFrame | None]
    run: Path
    store: str
    fingerprint: str
    day: int | None
    arguments: Mapping[str, Any]
    parts: Path
    weights: str


def is_folder(out: str | Path | None) -> bool:
    """Tell whether `out` asks for a folder of one file per shard: it has no ending like `.parquet`."""
    return out is not None and not Path(out).suffix


def answer_by_shard(
    answer: Callable[..., pl.DataFrame | None],
    run: Run[Any],
    out: str | Path,
    engine: EngineConfig,
    facts: Mapping[str, Any],
    *,
    day: int | None,
    arguments: Mapping[str, Any],
    sort: str | None = None,
) -> pl.DataFrame:
    """Answer for every shard, then join the parts into `out`: a file, or a folder of one file per shard.

    Parameters
    ----------
    answer
        `answer(run, artifact, day, **arguments)` for a run whose store is a part; a function of a module.
    facts
        What the manifest says besides: model, spec, store.
    sort
        The column that a joined file is sorted by; else users come in the order of the store.

    Gives the table that was written, or for a folder its list of parts: shard, n_users, n_rows, sha256, file.
    Errors: `DiskError` when another question was begun here; `FingerprintError` when the store changes meanwhile;
    `CutoffError` when nobody can be answered for; `EngineError`.
    """
    out = Path(out)
    parts = out.with_name(f"{out.name}.parts")
    _begin(parts, {"facts": dict(facts), "day": day, "arguments": dict(arguments), "n_shards": run.store.n_shards})
    question = Question(
        answer,
        run.path.absolute(),
        run.store.address,
        run.store.fingerprint,
        day,
        arguments,
        parts.absolute(),
        weights=json.dumps(facts.get("weights")),
    )
    left = [i for i in range(run.store.n_shards) if not _is_done(parts, i)]
    with bar("shards", len(left)) as advance:
        for _ in do_jobs(engine, answer_shard, [(question, i) for i in left]):
            advance(1)
    check_same(Store.open(run.store.address), run.store.fingerprint)
    done = [json.loads((parts / f"{i:05d}.json").read_text("utf-8")) for i in range(run.store.n_shards)]
    if not any(part["n_rows"] for part in done):
        shutil.rmtree(parts)
        where = "cut-off" if day is None else f"cut-off {to_date(day)}"
        raise CutoffError("at least one eligible user", "none", where=where)
    whole = dict(facts) | {
        "n_rows": sum(part["n_rows"] for part in done),
        "n_users": sum(part["n_users"] for part in done),
        "n_shards": len(done),
        "parts": done,
    }
    return _as_folder(parts, out, whole) if is_folder(out) else _as_file(parts, out, whole, sort)


def answer_shard(question: Question, i: int) -> dict[str, Any]:
    """Answer for shard `i` and write its part; what a worker runs. Errors: `FingerprintError` for another store."""
    run, artifact = _opened(question.run, question.store, question.weights)
    store = Store.open(question.store)
    check_same(store, question.fingerprint)
    entry: dict[str, Any] = {"shard": i, "n_users": 0, "n_rows": 0, "sha256": None, "file": None}
    with tempfile.TemporaryDirectory(prefix="habitus-part-") as scratch:
        part = part_of(store, [i], Path(scratch))
        own = Run(run.path, run.recipe, part)
        table = question.answer(own, artifact, question.day, **question.arguments) if part.n_users else None
    if table is not None and table.height:
        file = question.parts / f"{i:05d}.parquet"
        with new_file(file) as beside:
            table.write_parquet(beside)
        entry |= {
            "n_users": table["user"].n_unique(),
            "n_rows": table.height,
            "sha256": sha256(file),
            "file": file.name,
        }
    write_json(question.parts / f"{i:05d}.json", entry)
    return entry


def check_parts(folder: str | Path, store: Store) -> dict[str, Any]:
    """Make sure that a folder of answers is whole: every shard of the store once, every file as it was written.

    Gives the manifest. Errors: `FingerprintError` for another store; `StoreError`, naming what is missing or differs.
    """
    folder = Path(folder)
    file = manifest_path(folder)
    if not file.is_file():
        raise StoreError("a manifest", "none: the job did not end", where=str(file), fix="run the job again")
    facts = json.loads(file.read_text("utf-8"))
    if facts["store_fingerprint"] != store.fingerprint:
        raise FingerprintError(
            f"answers of the store {store.fingerprint[:12]}", facts["store_fingerprint"][:12], where=str(file)
        )
    if [part["shard"] for part in facts["parts"]] != list(range(store.n_shards)):
        raise StoreError(f"{store.n_shards} shards", f"{len(facts['parts'])}", where=str(file), fix="run the job again")
    for part in facts["parts"]:
        path = folder / (part["file"] or "")
        if part["file"] and (not path.is_file() or sha256(path) != part["sha256"]):
            raise StoreError("the file that was written", "none, or another", where=str(path), fix="run the job again")
    return facts


def manifest_path(out: Path) -> Path:
    """Give the place of the manifest of a file or folder of answers: beside it, so that a folder holds tables alone."""
    return out.with_suffix(".manifest.json")


def day_asked(store: Store, cutoff: str | dt.date | None) -> int:
    """Give the cut-off as a day of the log. Errors: `CutoffError`."""
    try:
        day = store.last_day if cutoff is None else to_day(cutoff)
    except ValueError:
        raise CutoffError("a date YYYY-MM-DD", repr(cutoff), where="cutoff") from None
    if not store.first_day <= day <= store.last_day:
        span = f"{to_date(store.first_day)} to {to_date(store.last_day)}"
        raise CutoffError(f"a day from {span}", str(to_date(day)), where="cutoff")
    return day


def needs_out(out: str | Path | None, histories: Any = None) -> Path:
    """Refuse an engine without a place for its answers, or with histories to answer. Errors: `ConfigError`."""
    if histories is not None:
        raise ConfigError("users of the store", "histories", where="engine", fix="leave the engine out: they are few")
    if out is None:
        raise ConfigError("a file or folder for the answers", "none", where="out", fix="give out=, or use engine local")
    return Path(out)


@lru_cache(maxsize=2)
def _opened(run: Path, store: str, weights: str) -> tuple[Run[Any], Artifact]:
    """Open a run and load its model once per worker, and again when it was trained anew: `weights` are its hashes."""
    opened = open_run(run, store)
    return opened, load_artifact(opened.artifact_path)


def _begin(parts: Path, plan: Mapping[str, Any]) -> None:
    """Make the folder of parts, or check that it holds those of the same question."""
    told = {key: value for key, value in plan["facts"].items() if key not in ("created", "commit", "hardware")}
    text = json.dumps(dict(plan) | {"facts": told}, sort_keys=True, default=str)
    file = parts / "plan.json"
    if file.is_file() and json.dumps(json.loads(file.read_text("utf-8")), sort_keys=True) != text:
        fix = "finish that one with the arguments and the store it began with, or remove the folder"
        raise DiskError("parts of this question", "those of another one", where=str(parts), fix=fix)
    parts.mkdir(parents=True, exist_ok=True)
    remove_partial(parts)
    if not file.is_file():
        write_json(file, json.loads(text))


def _is_done(parts: Path, i: int) -> bool:
    """Tell whether a shard's part is whole; a file that was changed or lost is made again."""
    file = parts / f"{i:05d}.json"
    if not file.is_file():
        return False
    entry = json.loads(file.read_text("utf-8"))
    made = parts / (entry["file"] or "")
    return entry["file"] is None or (made.is_file() and sha256(made) == entry["sha256"])


def _as_file(parts: Path, out: Path, facts: dict[str, Any], sort: str | None) -> pl.DataFrame:
    from habitus.tasks.predict import write_table

    table = pl.concat([pl.read_parquet(parts / part["file"]) for part in facts["parts"] if part["file"]])
    table = table if sort is None else table.sort(sort, maintain_order=True)
    write_table(table, out)
    write_json(manifest_path(out), facts)
    shutil.rmtree(parts)
    return table


def _as_folder(parts: Path, out: Path, facts: dict[str, Any]) -> pl.DataFrame:
    """Make the folder of parts the answer, by one rename; one that is there is replaced, as a file would be."""
    for part in facts["parts"]:
        (parts / f"{part['shard']:05d}.json").unlink()
    (parts / "plan.json").unlink()
    if out.exists():
        if not manifest_path(out).is_file():
            raise DiskError("a new path, or an older answer", "another folder", where=str(out), fix="choose another")
        manifest_path(out).unlink()
        out.rename(parts / "old")
    parts.rename(out)
    shutil.rmtree(out / "old", ignore_errors=True)
    write_json(manifest_path(out), facts)
    return pl.DataFrame(facts["parts"], schema={"shard": pl.Int64, "n_users": pl.Int64, "n_rows": pl.Int64,
                                                "sha256": pl.String, "file": pl.String})  # fmt: skip
