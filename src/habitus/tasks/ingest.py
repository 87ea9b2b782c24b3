"""The verbs `ingest` and `append`: name a source, get a store, see what was kept and what was not."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.errors import ConfigError, DiskError, SourceError
from habitus.core.registry import SOURCES, resolve
from habitus.core.remote import address_of, exists, joined, mirror, shown
from habitus.data.remote_store import publish
from habitus.data.store import MANIFEST, Store, files_of

if TYPE_CHECKING:
    from habitus.core.engine import EngineConfig
    from habitus.data.calendar import Calendar
    from habitus.data.log import EventLog
    from habitus.data.schema import Schema

POSTGRES = ("postgresql://", "postgres://")
DUCKDB = (".duckdb", ".ddb", ".db")


def ingest(
    source: Any,
    out: str | Path,
    *,
    schema: str | Path | Schema | None = None,
    calendar: str | Path | Calendar | None = None,
    audiences: str | Path | None = None,
    event_items: str | Path | None = None,
    profiles: Any = None,
    items: Any = None,
    folder: str | Path | None = None,
    query: str | None = None,
    table: str | None = None,
    max_rejected: float | None = None,
    memory_limit: str | int = "4GB",
    replace: bool = False,
    engine: EngineConfig | str | None = None,
) -> Store:
    """Write a raw log to a new store and open it; rows that cannot be used go to its `rejected` table with a reason.

    Parameters
    ----------
    source
        An `EventLog`; the name of a known source (`online_retail`, `complete_journey`, ...), with `folder` where its
        files lie; paths of Parquet, CSV or JSON-lines files, or a glob; a DuckDB file with `table`; a
        `postgresql://` address with `query`; or any table that speaks the Arrow PyCapsule protocol (Polars, pandas,
        Arrow, DuckDB).
    out
        The folder to make, here or at an address ("s3://..."). It appears complete or not at all.
    schema
        Which column plays which part: a TOML file or a `Schema`. Known sources bring their own.
    calendar, audiences, event_items
        Known events, whom they address, and the items they are about: files (CSV or Parquet), or a `Calendar` that
        holds all three. They replace the source's own.
    profiles, items
        Tables of static attributes: files or Arrow-capable tables.
    max_rejected
        The share of rows that may be unusable before ingest stops; default: the schema's.
    memory_limit
        What the process may use, such as "1GB"; a larger log spills to disk beside `out`.
    replace
        Take the place of an existing store once the new one is complete.
    engine
        Who reads and sorts: this process, or workers on Ray (`memory_limit` is that of each). The bytes are the same.

    Errors: `ConfigError` (no schema, unknown source), `SourceError` (absent, empty or broken files), `SchemaError` (a
    missing column), `IngestError` (too many rows rejected, nothing left), `DiskError` (no room; `out` exists).

    >>> import polars, tempfile
    >>> schema = {"events": {"user": "u", "time": "t", "type": {"constant": "visit"}}}
    >>> table = polars.DataFrame({"u": ["a", "b"], "t": ["2024-05-01", "2024-05-03"]})
    >>> store = ingest(table, tempfile.mkdtemp() + "/tiny.store", schema=schema)
    >>> store.n_users, store.n_events
    (2, 2)
    """
    from habitus.data.ingest import ingest as write

    log = log_of(source, schema=schema, folder=folder, query=query, table=table)
    log = _with_tables(log, calendar, (audiences, event_items), profiles, items)
    if max_rejected is not None:
        _check_share(max_rejected)
        log = dataclasses.replace(log, schema=log.schema.model_copy(update={"max_rejected": max_rejected}))
    if (address := address_of(out)) is not None:
        return _elsewhere(address, replace, lambda made: write(log, made, memory_limit=memory_limit, engine=engine))
    return write(log, out, memory_limit=memory_limit, replace=replace, engine=engine)


def append(
    store: str | Path,
    source: Any,
    *,
    schema: str | Path | Schema | None = None,
    calendar: str | Path | Calendar | None = None,
    audiences: str | Path | None = None,
    event_items: str | Path | None = None,
    profiles: Any = None,
    items: Any = None,
    folder: str | Path | None = None,
    query: str | None = None,
    table: str | None = None,
    memory_limit: str | int = "4GB",
    engine: EngineConfig | str | None = None,
) -> Store:
    """Add later days to a store: the same store as one ingest of everything; a killed append leaves the old one.

    Arguments as in `ingest`. The schema is the store's; one given may differ in `max_rejected`, `time_range` and
    `is_last_day_partial` only. A calendar replaces the old one; rows of profiles and items replace those of their key.
    Errors: those of `ingest`; `StoreError` when `store` is none, or is being changed; `SchemaError` for another schema.

    >>> import polars, tempfile
    >>> schema, path = {"events": {"user": "u", "time": "t", "type": "k"}}, tempfile.mkdtemp() + "/tiny.store"
    >>> _ = ingest(polars.DataFrame({"u": ["a"], "t": ["2024-05-01"], "k": ["visit"]}), path, schema=schema)
    >>> append(path, polars.DataFrame({"u": ["a"], "t": ["2024-05-02"], "k": ["visit"]})).n_events
    2
    """
    from habitus.data.append import append as write
    from habitus.tokens.stored_counts import derive_counts

    opened = Store.open(store)
    own = opened.schema
    log = log_of(source, schema=own if schema is None else schema, folder=folder, query=query, table=table)
    whole = _with_tables(log, calendar, (audiences, event_items), profiles, items)
    address = address_of(store)
    for entry in files_of(opened.manifest) if address else []:
        opened.file(entry["file"])  # fetched: the copy here is changed, then published
    made = write(opened.path, whole, memory_limit=memory_limit, derive=derive_counts, engine=engine)
    return made if address is None else publish(made, address, replaces=opened.fingerprint)


def _elsewhere(address: str, replace: bool, write: Callable[[Path], Store]) -> Store:
    """Make a store here, then publish it. Errors: `DiskError` when there is one already, before anything is read."""
    there = exists(joined(address, MANIFEST))
    if there and not replace:
        raise DiskError("a new address", "it exists already", where=shown(address), fix="choose another, or --replace")
    replaces = Store.open(address).fingerprint if there else None
    made = mirror(address).parent / "making.store"
    shutil.rmtree(made, ignore_errors=True)
    made.parent.mkdir(parents=True, exist_ok=True)
    try:
        return publish(write(made), address, replaces=replaces)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def log_of(
    source: Any,
    *,
    schema: Any = None,
    folder: str | Path | None = None,
    query: str | None = None,
    table: str | None = None,
) -> EventLog:
    """Turn whatever names a log into an `EventLog`. Arguments and errors as in `ingest`."""
    from habitus.data.log import EventLog

    given = None if schema is None else _schema(schema)
    log = source if isinstance(source, EventLog) else _named(source, folder)
    if log is not None:
        return log if given is None else dataclasses.replace(log, schema=given)
    if given is None:
        raise ConfigError(
            "a schema that says which column plays which part",
            "none",
            where=_label(source),
            fix="give --schema FILE, or have one proposed: habitus ingest SOURCE --infer --schema FILE",
        )
    return EventLog(given, raw_of(source, query, table))


def raw_of(source: Any, query: str | None = None, table: str | None = None) -> Any:
    """Give what `EventLog` takes as events: paths, a table, a query on PostgreSQL, or a table of a DuckDB file."""
    address = _only(source)
    if isinstance(address, str) and address.startswith(POSTGRES):
        if query is None:
            raise SourceError("a query to read", "none", where=_label(source), fix='add --query "SELECT ... FROM ..."')
        from habitus.data.sources.postgresql import PostgreSQLQuery

        return PostgreSQLQuery(address, query)
    if isinstance(address, str | Path) and Path(address).suffix in DUCKDB:
        if table is None:
            raise SourceError("the table to read", "none", where=str(address), fix="add --table NAME")
        from habitus.data.sources.duckdb_file import DuckDBTable

        return DuckDBTable(address, table)
    return source


def infer(source: Any, path: str | Path, *, query: str | None = None, table: str | None = None) -> Path:
    """Propose a schema from the first rows of a source and write it as TOML for a person to read and mend.

    Errors: `DiskError` when `path` exists; those of `ingest` for the source.
    """
    from habitus.core.atomic import new_file
    from habitus.data.infer import propose

    path = Path(path)
    if path.exists():
        raise DiskError("a new file", "it exists already", where=str(path), fix="choose another --schema, or remove it")
    text = propose(raw_of(source, query, table), name=path.stem)
    with new_file(path) as beside:
        beside.write_text(text, "utf-8")
    return path


def summary(store: Store) -> str:
    """Say in a few lines what a store holds: counts that add up, days, types, known events, rejects by reason."""
    from habitus.data.calendar import to_date

    counts = store.manifest["counts"]
    rejected = sum(counts["rejected"].values())
    last = store.manifest["days"]["last"]
    partial = "" if last == store.last_day else f" ({to_date(last)} is incomplete and never a target day)"
    types = ", ".join(store.types[:12]) + (f", and {len(store.types) - 12} more" if len(store.types) > 12 else "")
    rows = [
        ("users", f"{store.n_users:,}"),
        ("events", f"{store.n_events:,}"),
        ("days", f"{to_date(store.first_day)} to {to_date(store.last_day)}{partial}"),
        ("types", types),
        ("known events", f"{len(store.calendar):,}"),
        ("rows read", f"{counts['read']:,} = {counts['kept']:,} kept + {rejected:,} rejected"),
        *((f"  {reason}", f"{n:,}") for reason, n in sorted(counts["rejected"].items(), key=lambda item: -item[1])),
    ]
    width = max(len(label) for label, _ in rows) + 2
    return "\n".join([str(store.path), *(f"  {label:<{width}}{value}" for label, value in rows)])


def _named(source: Any, folder: str | Path | None) -> EventLog | None:
    """Give the log of a known source, or None when `source` is something else."""
    name = _only(source)
    if not isinstance(name, str) or name.startswith(POSTGRES) or Path(name).exists():
        return None
    if name not in SOURCES and (folder is None) and any(sign in name for sign in "./\\*?"):
        return None
    make = resolve(SOURCES, name, kind="known source")
    needs = [p for p in inspect.signature(make).parameters.values() if p.default is p.empty]
    if needs and folder is None:
        raise SourceError("a folder with the files of this source", "none", where=name, fix="add --folder DIR")
    return make(folder) if needs else make()


def _with_tables(
    log: EventLog, calendar: Any, beside: tuple[str | Path | None, str | Path | None], profiles: Any, items: Any
) -> EventLog:
    from habitus.data.calendar import read_calendar

    changes: dict[str, Any] = {"profiles": profiles, "items": items}
    for table, what in zip(beside, ("names these audiences", "holds these events")):
        if table is not None and calendar is None:
            raise ConfigError(f"a calendar that {what}", "none", where=str(table), fix="add --calendar")
    if calendar is not None:
        changes["calendar"] = read_calendar(calendar, *beside) if isinstance(calendar, str | Path) else calendar
    return dataclasses.replace(log, **{name: value for name, value in changes.items() if value is not None})


def _schema(given: Any) -> Schema:
    from habitus.data.schema import Schema

    if isinstance(given, Schema):
        return given
    return Schema.read(given) if isinstance(given, str | Path) else Schema.parse(given)


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ConfigError("a share between 0 and 1", str(share), where="max_rejected", fix="0.05 means 5 %")


def _only(source: Any) -> Any:
    """The single entry of a list of one, else the source."""
    return source[0] if isinstance(source, Sequence) and not isinstance(source, str) and len(source) == 1 else source


def _label(source: Any) -> str:
    first = _only(source)
    if isinstance(first, str) and first.startswith(POSTGRES):
        return "PostgreSQL"  # the address may hold a password
    return str(first) if isinstance(first, str | Path) else type(source).__name__
