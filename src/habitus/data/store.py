"""A prepared log on disk: one user in one shard, sorted by time, memory-mapped, never loaded whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.core.errors import StoreError, nearest
from habitus.core.remote import address_of
from habitus.data.schema import Schema
from habitus.data.shards import map_shard, map_text, sha256

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """The rows of users `first_user` .. `first_user + n_users - 1`, sorted by user, time, source order.

    Rows of user `first_user + j` are `offsets[j]:offsets[j + 1]` (int64 [n_users + 1]). `time` is int64 microseconds
    UTC, `day` int32 days since 1970-01-01 in the schema's zone, `type`, `item` and categories are int32 codes (-1:
    missing), `session` is int64 (-1: missing), amounts are float64 (NaN: missing), text is an Arrow array of large
    strings. All columns are memory-mapped and read-only.
    """

    first_user: int
    offsets: np.ndarray
    time: np.ndarray
    day: np.ndarray
    type: np.ndarray
    item: np.ndarray | None = None
    session: np.ndarray | None = None
    amounts: Mapping[str, np.ndarray] = field(default_factory=dict)
    categories: Mapping[str, np.ndarray] = field(default_factory=dict)
    text: Mapping[str, pa.ChunkedArray] = field(default_factory=dict)

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_events(self) -> int:
        return len(self.time)


@dataclass(frozen=True)
class Store:
    """A store that was opened: small tables on demand, shards by memory map. Nothing here writes.

    `fingerprint` covers the schema and every kept value: equal fingerprints mean equal stores.

    Errors: `StoreError` when a folder is not a store, is of another format version, or lacks a file.

    >>> import polars, tempfile
    >>> from habitus.data.ingest import ingest
    >>> from habitus.data.log import EventLog
    >>> schema = Schema.parse({"events": {"user": "u", "time": "t", "type": "k"}})
    >>> rows = polars.DataFrame({"u": ["b", "a"], "t": ["2024-05-02", "2024-05-01"], "k": ["buy", "visit"]})
    >>> store = ingest(EventLog(schema, rows), tempfile.mkdtemp() + "/tiny.store")
    >>> store.types, store.shard(0).type.tolist(), store.shard(0).offsets.tolist()
    (['visit', 'buy'], [0, 1], [0, 1, 2])
    """

    path: Path
    manifest: dict[str, Any] = field(repr=False)
    schema: Schema = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store, here or by its address ("s3://..."). An append replaces files, so open it again after one."""
        if (address := address_of(path)) is not None:
            from habitus.data.remote_store import open_remote

            return open_remote(address)
        path = Path(path)
        manifest = read_manifest(path)
        return cls(path, manifest, Schema.parse(manifest["schema"], where=str(path / MANIFEST)))

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def n_users(self) -> int:
        return self.manifest["n_users"]

    @property
    def n_events(self) -> int:
        return self.manifest["n_events"]

    @property
    def n_shards(self) -> int:
        return len(self.manifest["shards"])

    @property
    def first_day(self) -> int:
        """The first day with an event, in days since 1970-01-01."""
        return self.manifest["days"]["first"]

    @property
    def last_day(self) -> int:
        """The last complete day, in days since 1970-01-01: the day before the last one if that is declared partial."""
        return self.manifest["days"]["last_complete"]

    @property
    def amounts(self) -> tuple[str, ...]:
        """Amounts that inputs may hold."""
        return tuple(name for name, amount in self.schema.events.amounts.items() if not amount.is_outcome)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Amounts that are known only some time after their event: for targets alone."""
        return tuple(name for name, amount in self.schema.events.amounts.items() if amount.is_outcome)

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.schema.events.categories)

    @cached_property
    def users(self) -> pl.DataFrame:
        """One row per user, row number = user index: user, n_events, first_time, last_time (us), first_day."""
        return self._table("users")

    @cached_property
    def types(self) -> list[str]:
        return self.vocabulary("type")

    @cached_property
    def items(self) -> list[str] | None:
        return self.vocabulary("item") if self.schema.events.item is not None else None

    def vocabulary(self, name: str) -> list[str]:
        """Give the texts of a coded column ("type", "item" or a category) in code order."""
        known = self.manifest["vocabularies"]
        if name not in known:
            meant = nearest(name, known)
            hint = f"did you mean {meant!r}?" if meant else ""
            raise StoreError(f"a coded column out of: {', '.join(known)}", repr(name), where=str(self.path), fix=hint)
        return self._read(known[name]["file"])[name].to_list()

    @cached_property
    def profiles(self) -> pl.DataFrame | None:
        """One row per user index, nulls where nothing is known; None without a `[profile]`. Labels are not in it."""
        return self._table("profiles").drop(self._labels) if "profiles" in self.manifest["tables"] else None

    @cached_property
    def labels(self) -> pl.DataFrame:
        """One row per user index: user and the labels of the profile, which group users and never reach an input."""
        return self._table("profiles").select("user", *self._labels) if self._labels else self.users.select("user")

    @property
    def _labels(self) -> list[str]:
        profile = self.schema.profile
        return [] if profile is None else [name for name, part in profile.columns.items() if part.kind == "label"]

    @cached_property
    def item_table(self) -> pl.DataFrame | None:
        """One row per item code, column `item` and the declared attributes; None without `[items]`."""
        return self._table("items") if "items" in self.manifest["tables"] else None

    @property
    def rejected(self) -> pl.DataFrame:
        """The rows that could not be used: reason, file, position, raw (the row's values as JSON, or the raw line)."""
        return self._table("rejected")

    @cached_property
    def calendar(self) -> Any:
        """The known events (a `Calendar`), possibly none."""
        from habitus.data.calendar import Calendar, read_calendar

        tables = self.manifest["tables"]
        if "calendar" not in tables:
            return Calendar.empty()
        files = [self.file(tables[n]["file"]) if n in tables else None for n in ("audiences", "event_items")]
        return read_calendar(self.file(tables["calendar"]["file"]), *files)

    @cached_property
    def _counts(self) -> np.ndarray:
        return self._read(self.manifest["tables"]["users"]["file"], ["n_events"])["n_events"].to_numpy()

    def shard(self, i: int) -> Shard:
        """Memory-map shard `i`."""
        entry = self.manifest["shards"][i]
        first, n_users = entry["first_user"], entry["n_users"]
        offsets = np.zeros(n_users + 1, np.int64)
        np.cumsum(self._counts[first : first + n_users], out=offsets[1:])
        try:
            columns = map_shard(self.file(entry["file"]))
            text = map_text(self.file(entry["text"]["file"])) if "text" in entry else None
        except (OSError, ValueError) as cause:
            raise _missing(self.file(entry["file"]), cause) from cause
        return shard_of(self.schema, columns, first, offsets, text)

    @property
    def address(self) -> str:
        """What `open` takes to open this store again, from any folder."""
        return str(self.path.resolve())

    @property
    def derived(self) -> Path:
        """Where tables made from the log lie; they can be made again at any time."""
        return self.path / "derived"

    def file(self, name: str) -> Path:
        """Give the path of a file that the manifest names."""
        return self.path / name

    def check(self) -> None:
        """Compare the hash of every file with the manifest. Errors: `StoreError`, naming the first that differs."""
        for entry in files_of(self.manifest):
            file = self.file(entry["file"])
            if not file.is_file() or sha256(file) != entry["sha256"]:
                raise StoreError(
                    f"a file with sha256 {entry['sha256'][:12]}...", "another content, or none", where=str(file),
                    fix="ingest again",
                )  # fmt: skip

    def _table(self, name: str) -> pl.DataFrame:
        return self._read(self.manifest["tables"][name]["file"])

    def _read(self, file: str, columns: list[str] | None = None) -> pl.DataFrame:
        import polars as pl

        try:
            return pl.read_parquet(self.file(file), columns=columns)
        except (OSError, pl.exceptions.PolarsError) as cause:
            raise _missing(self.file(file), cause) from cause


def shard_of(
    schema: Schema, columns: Mapping[str, np.ndarray], first_user: int, offsets: np.ndarray, text: Any = None
) -> Shard:
    """Give the mapped columns of a shard file their parts."""
    return Shard(
        first_user,
        offsets,
        columns["time"],
        columns["day"],
        columns["type"],
        columns.get("item"),
        columns.get("session"),
        {name: columns[name] for name in schema.events.amounts},
        {name: columns[name] for name in schema.events.categories},
        {name: text.column(name) for name in text.column_names} if text is not None else {},
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check `manifest.json`. Errors: `StoreError`."""
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text("utf-8"))
        found = manifest["format"]
    except FileNotFoundError:
        found = "no manifest.json" if path.is_dir() else "no such folder"
        raise StoreError("a store", found, where=str(path), fix="make one with `habitus ingest`") from None
    except (ValueError, KeyError, TypeError, OSError) as cause:
        raise StoreError("a store's manifest", str(cause), where=str(file), fix="ingest again") from None
    if found != FORMAT:
        raise StoreError(f"format version {FORMAT}", str(found), where=str(file), fix="ingest again with this version")
    return manifest


def files_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List every file entry of a manifest."""
    texts = [shard["text"] for shard in manifest["shards"] if "text" in shard]
    main = [*manifest["shards"], *texts, *manifest["vocabularies"].values(), *manifest["tables"].values()]
    return main + derived_of(manifest)


def derived_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the file entries of counts of interests: derived from the log, so no part of the fingerprint."""
    found = []
    for kept in manifest.get("interests", {}).values():
        found += [*kept["fit"].values(), *(entry for shard in kept["shards"] for entry in shard.values())]
    return found


def _missing(file: Path, cause: Exception) -> StoreError:
    return StoreError("a readable file of the store", str(cause)[:300], where=str(file), fix="ingest again")
