"""Probe: what can be read from frozen vectors, and do they add to hand-made aggregates?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from habitus.core.errors import ConfigError, TargetError, nearest
from habitus.data.calendar import to_day
from habitus.tasks.probe.comparators import hand_aggregates
from habitus.tasks.probe.features import Block
from habitus.tasks.probe.table import ProbeConfig, ProbeTable, probe_features
from habitus.tasks.probe.words import AGGREGATES, as_frame, as_text, verdict
from habitus.tasks.vectors import read_table, read_vectors

if TYPE_CHECKING:
    from habitus.data.store import Store

VECTORS = ("flat", "vector")  # the column of a table of vectors, LURM's first


def probe(
    vectors: str | Path | pl.DataFrame,
    *,
    labels: str | Path | pl.DataFrame | None = None,
    targets: Sequence[str] = (),
    store: str | Path | Store | None = None,
    fuse: bool = False,
    config: ProbeConfig | None = None,
    cutoff: str | dt.date | None = None,
    out: str | Path | None = None,
) -> tuple[ProbeTable, str]:
    """Fit light heads on frozen vectors and say how well labels can be read from them.

    Parameters
    ----------
    vectors
        What `embed` wrote, its table, or a run, which is embedded at `cutoff`: `user`, `as_of`, `flat` or `vector`.
    labels
        A file or table: `user` and columns of 0, 1 or null.
    targets
        Targets measured after `as_of`, such as `any(purchase) in 28d`; amounts count as whether they exceed 0. They
        need `store`.
    fuse
        Probe aggregates, vectors, both, and both with the vectors cut to 32 principal components. Needs `store`.
    out
        Where the figures go as Parquet.

    Gives the table and its text, whose first line is the verdict; probed from a run, the figures also go to its
    metrics.json, for `report`. Vectors stay frozen and see no label; folds are by user. Not a forecast of tomorrow:
    folds share one cut-off.
    Errors: `ConfigError` for a table without vectors or a missing store, `TargetError` for labels other than 0 and 1.
    """
    table = read_vectors(vectors, cutoff=cutoff, store=store)
    name = next((column for column in VECTORS if column in table.columns), None)
    if name is None or "user" not in table.columns:
        raise ConfigError("columns user and flat or vector", ", ".join(table.columns), where="vectors")
    if (targets or fuse) and store is None:
        raise ConfigError("the store of the log", "none", where="probe", fix="add --store STORE")
    value = table[name].to_numpy().astype(np.float64)
    value = value.reshape(table.height, -1)
    known = {} if labels is None else _labels(table["user"], read_table(labels))
    features: dict[str, Any] = {name: value}
    if store is not None and (targets or fuse):
        opened = _open(store)
        users = _index(opened, table["user"])
        day = _day(table)
        known |= _targets(opened, users, day, targets)
        if fuse:
            made = hand_aggregates(opened, users, day)
            short = Block(value, n_components=32)
            features = {AGGREGATES: made, name: value, "both": (made, Block(value)), "both, PCA-32": (made, short)}
    if not known:
        raise ConfigError("labels or targets", "neither", where="probe", fix="add --labels FILE or --target TEXT")
    found = probe_features(features, known, config)
    against = AGGREGATES if fuse else None
    head = "trees" if "trees" in found.heads else (found.heads or ["none"])[0]
    learnt = tuple(feature for feature in found.features if feature != AGGREGATES)
    said = verdict(found, learnt, head) if fuse else ""
    text = as_text(found, against, said)
    if isinstance(vectors, str | Path) and (Path(vectors) / "metrics.json").is_file():
        _keep(Path(vectors), found, against, said, str(table["as_of"][0]) if "as_of" in table.columns else None)
    if out is not None:
        from habitus.tasks.predict import write_table

        write_table(as_frame(found, against), out)
    return found, text


def _keep(run: Path, found: ProbeTable, against: str | None, said: str, as_of: str | None) -> None:
    """Keep the figures in the run's metrics.json, for its report."""
    from habitus.tasks.run import update_metrics

    rows = as_frame(found, against).to_dicts() if found.cells else []
    update_metrics(run, {"probe": {"verdict": said, "against": against, "as_of": as_of, "rows": rows}})


def _labels(users: pl.Series, given: pl.DataFrame) -> dict[str, np.ndarray]:
    """Give each column but `user` in the order of the vectors' users, NaN where unknown."""
    if "user" not in given.columns or given.width < 2:
        raise ConfigError("columns user and at least one label", ", ".join(given.columns), where="labels")
    if given["user"].n_unique() != given.height:
        raise ConfigError("each user once", f"{given.height - given['user'].n_unique()} repeats", where="labels")
    wanted = pl.DataFrame({"user": users.cast(pl.String)})
    joined = wanted.join(
        given.with_columns(pl.col("user").cast(pl.String)), on="user", how="left", maintain_order="left"
    )
    columns: dict[str, np.ndarray] = {}
    for column in joined.columns[1:]:
        kind = joined[column].dtype
        if not (kind.is_numeric() or kind == pl.Boolean):
            raise TargetError("a column of 0, 1 or nothing", str(kind), where=column, fix="make one yes-or-no column")
        columns[column] = joined[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return columns


def _targets(store: Store, users: np.ndarray, day: int, texts: Sequence[str]) -> dict[str, np.ndarray]:
    from habitus.data.cutoffs import Samples
    from habitus.data.targets import Target, measure

    if not texts:
        return {}
    samples = Samples(users, np.full(len(users), day, np.int32))
    found = measure(tuple(Target.parse(text) for text in texts), store, samples)
    value = np.where(found.is_observed, found.value > 0, np.nan)
    return {text: value[:, k] for k, text in enumerate(texts)}


def _day(table: pl.DataFrame) -> int:
    days = table["as_of"].unique() if "as_of" in table.columns else pl.Series([], dtype=pl.Date)
    if len(days) != 1:
        raise ConfigError("one as_of for all users", f"{len(days)}", where="vectors", fix="embed at one cut-off")
    day = days[0]
    return to_day(day if isinstance(day, dt.date) else dt.date.fromisoformat(str(day)))


def _index(store: Store, users: pl.Series) -> np.ndarray:
    """Give the user index of each id. Errors: `ConfigError` naming the first unknown one."""
    ids = store.users.select("user").with_row_index("index").with_columns(pl.col("user").cast(pl.String))
    wanted = pl.DataFrame({"user": users.cast(pl.String)})
    found = wanted.join(ids, on="user", how="left", maintain_order="left")["index"]
    if found.null_count():
        name = users.filter(found.is_null())[0]
        meant = nearest(str(name), ids["user"].head(10_000).to_list())
        fix = f"did you mean {meant!r}?" if meant else ""
        raise ConfigError("users of the store", repr(name), where=str(store.path), fix=fix)
    return found.to_numpy().astype(np.int64)


def _open(store: Any) -> Store:
    from habitus.data.store import Store

    return store if isinstance(store, Store) else Store.open(store)
