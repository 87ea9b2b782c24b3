"""The encoded events of a store: made once per spec in one pass, memory-mapped, never loaded whole."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.format import open_memmap

from habitus.core.atomic import new_folder, write_json
from habitus.core.progress import track
from habitus.tokens.events import EventSpec, check_events_fit, raw_events

if TYPE_CHECKING:
    from habitus.data.store import Store


@dataclass(frozen=True)
class EventTable:
    """The events of every user, in order of time; events of one instant keep their order in the source.

    Attributes
    ----------
    offsets
        int64 [n_users + 1]: rows of user u are offsets[u]:offsets[u + 1].
    day
        int32 [n], days since 1970-01-01 in the schema's zone.
    time
        int64 [n], seconds UTC.
    ids
        int32 [n, n_fields].
    amount
        float32 [n, n_amounts], standardised.
    """

    spec: EventSpec
    offsets: np.ndarray
    day: np.ndarray
    time: np.ndarray
    ids: np.ndarray
    amount: np.ndarray

    def __len__(self) -> int:
        return len(self.time)


_COLUMNS = ("offsets", "day", "time", "ids", "amount")


def event_table(store: Store, spec: EventSpec) -> EventTable:
    """Give a store's encoded events; made at the first call, kept in the store, remade when the log changed.

    Errors: `FingerprintError` when the store does not fit the spec.
    """
    check_events_fit(spec, store)
    begin = f"events-{store.fingerprint[:16]}-"
    folder = store.derived / f"{begin}{spec.fingerprint[:16]}"
    if not (folder / "fields.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write(store, spec, folder)
        for stale in folder.parent.glob("events-*"):
            if not stale.name.startswith(begin):
                shutil.rmtree(stale, ignore_errors=True)
    return EventTable(spec, *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _COLUMNS))


def _write(store: Store, spec: EventSpec, folder: Path) -> None:
    lookups = {name: spec.lookup(name, store.vocabulary(name)) for name in spec.values}
    n, row = store.n_events, 0
    kinds = {
        "day": ((n,), np.int32),
        "time": ((n,), np.int64),
        "ids": ((n, len(spec.fields)), np.int32),
        "amount": ((n, len(spec.amount_edges)), np.float32),
    }
    with new_folder(folder, replace=True) as beside:
        columns = {
            name: open_memmap(beside / f"{name}.npy", mode="w+", dtype=kind, shape=shape)
            for name, (shape, kind) in kinds.items()
        }
        offsets = np.zeros(store.n_users + 1, np.int64)
        for i in track(range(store.n_shards), "event tokens"):
            raw, shard = raw_events(store, spec, i, lookups), store.shard(i)
            rows = slice(row, row + len(raw.time))
            columns["day"][rows], columns["time"][rows] = shard.day, raw.time
            columns["ids"][rows], columns["amount"][rows] = spec.encode(raw)
            offsets[shard.first_user + 1 : shard.first_user + shard.n_users + 1] = row + raw.offsets[1:]
            row = rows.stop
        for column in columns.values():
            column.flush()
        np.save(beside / "offsets.npy", offsets)
        write_json(beside / "fields.json", list(spec.fields))
