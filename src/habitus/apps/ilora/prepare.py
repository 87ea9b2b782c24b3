"""Prepare: a store becomes sequences, fixed candidates, and a log on which SASRec and GRU4Rec are trained.

DIR/sequences.npz    titles and items of every user        DIR/sequences.store  the same, as `habitus train` reads it
DIR/KIND-PART.npz    candidates of test and valid          DIR/prepared.json    counts and hashes
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from habitus.apps.ilora.candidates import Candidates, Kind, draw_candidates
from habitus.apps.ilora.rows import Part, Sequences, read_sequences
from habitus.core.atomic import new_folder, write_json
from habitus.core.errors import ArtifactError
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.sources.item_sequences import START
from habitus.data.store import Store

KINDS: tuple[Kind, ...] = ("uniform", "popular")
_SCHEMA = {
    "time_zone": "UTC",
    "events": {"user": "user", "time": "time", "time_unit": "s", "type": {"constant": "choice"}, "item": "item"},
}


@dataclass(frozen=True)
class Prepared:
    """An opened folder of `prepare`."""

    path: Path
    sequences: Sequences
    facts: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Prepared:
        """Open a folder. Errors: `ArtifactError` when it is none."""
        path = Path(path)
        if not (path / "prepared.json").is_file():
            fix = "make it with `habitus ilora prepare STORE --out DIR`"
            raise ArtifactError("a prepared folder with prepared.json", "none", where=str(path), fix=fix)
        facts = json.loads((path / "prepared.json").read_text("utf-8"))
        return cls(path, Sequences.load(path / "sequences.npz"), facts)

    @property
    def store(self) -> Path:
        """The log that models of items are trained on."""
        return self.path / "sequences.store"

    def candidates(self, part: Part = "test", kind: Kind = "uniform") -> Candidates:
        """Give the fixed candidates of a part. Errors: `FingerprintError` for a file that was changed or swapped."""
        found = Candidates.load(self.path / f"{kind}-{part}.npz")
        found.check(self.facts["candidates"][f"{kind}-{part}"], where=str(self.path / f"{kind}-{part}.npz"))
        return found


def prepare(
    store: str | Path, out: str | Path, *, unseen: str | None = None, tie_seed: int = 0, seed: int = 0
) -> Prepared:
    """Cut questions out of a store of events about items with titles.

    Parameters
    ----------
    unseen
        A column of the profile that says `yes` of users who are asked about and never trained on.
    tie_seed, seed
        Of the order of events of one instant, and of the candidates.

    Errors: `SchemaError` for a store without titles; `ConfigError` when a user leaves too few items to draw from.
    """
    opened = Store.open(store)
    sequences = read_sequences(opened, unseen=unseen, tie_seed=tie_seed)
    drawn = {
        f"{kind}-{part}": draw_candidates(sequences.rows(part), kind=kind, seed=seed)
        for kind in KINDS
        for part in ("valid", "test")
    }
    with new_folder(out) as folder:
        sequences.save(folder / "sequences.npz")
        for name, lists in drawn.items():
            lists.save(folder / f"{name}.npz")
        ingest(_log(sequences, opened.schema.name), folder / "sequences.store")
        facts = {"store": opened.fingerprint, "sequences": sequences.fingerprint, "tie_seed": tie_seed}
        facts |= {"n_users": len(sequences.users), "n_unseen": int((~sequences.is_seen).sum())}
        facts |= {"n_items": sequences.n_items, "n_events": len(sequences.item)}
        facts |= {"n_rows": {part: len(sequences.rows(part)) for part in ("train", "valid", "test")}}
        write_json(folder / "prepared.json", facts | {"candidates": {name: c.hash for name, c in drawn.items()}})
    return Prepared.open(out)


def _log(sequences: Sequences, name: str) -> EventLog:
    """The seen users' items as a log, position p at p seconds."""
    import polars as pl

    seen = sequences.is_seen[sequences.owner]
    place = np.arange(len(sequences.item)) - sequences.offsets[:-1][sequences.owner]
    rows = pl.DataFrame(
        {
            "user": np.array(sequences.users)[sequences.owner[seen]],
            "item": np.array(sequences.items)[sequences.item[seen]],
            "time": START + place[seen],
        }
    )
    return EventLog(Schema.parse(_SCHEMA | {"name": name}), rows)
