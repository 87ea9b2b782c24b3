"""Some shards of a store as a store of their own: what a worker opens, and all that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.core.errors import FingerprintError
from habitus.data.store import Store

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Part(Store):
    """The users of some shards, numbered from 0, with the words, days and fingerprint of the whole store.

    Whatever reads a store reads a part: it finds fewer users, and their events, codes and profiles are the same. Tables
    derived from it lie in `scratch`, away from those of the whole.
    """

    first_user: int = 0
    scratch: Path = field(default_factory=Path)
    whole: Store | None = field(default=None, repr=False)

    @property
    def derived(self) -> Path:
        """Where tables made from this part lie."""
        return self.scratch

    def file(self, name: str) -> Path:
        """Give the path of a file that the manifest names, as the whole store finds it."""
        return super().file(name) if self.whole is None else self.whole.file(name)

    @cached_property
    def _counts(self) -> np.ndarray:
        return self._read(self.manifest["tables"]["users"]["file"], ["n_events"])["n_events"].to_numpy()

    def _read(self, file: str, columns: list[str] | None = None) -> pl.DataFrame:
        import polars as pl

        per_user = [self.manifest["tables"][n]["file"] for n in ("users", "profiles") if n in self.manifest["tables"]]
        if file not in per_user:
            return super()._read(file, columns)
        rows = pl.scan_parquet(self.file(file)).slice(self.first_user, self.n_users)
        return (rows if columns is None else rows.select(columns)).collect()


def part_of(store: Store, shards: Sequence[int], scratch: Path) -> Part:
    """Give the part of a store that some shards in a row hold.

    >>> import polars, tempfile
    >>> from habitus.data.ingest import ingest
    >>> from habitus.data.log import EventLog
    >>> from habitus.data.schema import Schema
    >>> schema = Schema.parse({"events": {"user": "u", "time": "t", "type": {"constant": "visit"}}})
    >>> rows = polars.DataFrame({"u": ["a", "b", "c", "d"], "t": ["2024-05-02"] * 4})
    >>> folder = Path(tempfile.mkdtemp())
    >>> store = ingest(EventLog(schema, rows), folder / "tiny.store", n_shards=2)
    >>> [part_of(store, [i], folder).users["user"].to_list() for i in range(2)]
    [['a', 'b'], ['c', 'd']]
    """
    entries = [store.manifest["shards"][i] for i in shards]
    first = entries[0]["first_user"]
    manifest: dict[str, Any] = store.manifest | {
        "shards": [entry | {"first_user": entry["first_user"] - first} for entry in entries],
        "n_users": sum(entry["n_users"] for entry in entries),
        "n_events": sum(entry["n_events"] for entry in entries),
        "interests": {
            version: kept | {"shards": [kept["shards"][i] for i in shards]}
            for version, kept in store.manifest.get("interests", {}).items()
        },
    }
    return Part(store.path, manifest, store.schema, first, scratch, store)


def check_same(store: Store, fingerprint: str) -> None:
    """Make sure that a store is the one that a job began with. Errors: `FingerprintError`."""
    if store.fingerprint != fingerprint:
        raise FingerprintError(
            f"the store that the job began with ({fingerprint[:12]})", f"another one ({store.fingerprint[:12]})",
            where=str(store.path), fix="run the job again; it begins anew for the store as it is now",
        )  # fmt: skip
