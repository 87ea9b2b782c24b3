"""One trained adapter at work: judged on fixed candidates, or recommending to users."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.apps.ilora.answer import answer
from habitus.apps.ilora.candidates import N_CANDIDATES, Candidates, Kind
from habitus.apps.ilora.model import read_ilora
from habitus.apps.ilora.prompts import PromptConfig
from habitus.apps.ilora.rows import HISTORY, Part, Rows, Sequences
from habitus.apps.ilora.study import Bench
from habitus.apps.ilora.tables import judged
from habitus.core.atomic import new_file
from habitus.core.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl


def open_adapter(adapter: str | Path, data: str | Path, lm: str | Path, states: str | Path) -> Bench:
    """Open an adapter with the model, states and sequences it was trained with.

    Errors: `ArtifactError` for what is no such folder; `FingerprintError` where one of them is another.
    """
    plain = read_ilora(adapter)
    prompts = PromptConfig.parse(plain["prompts"], where=f"{adapter}/ilora.json")
    bench = Bench(data, lm, states, prompts, member=int(plain["facts"].get("member", 0)))
    bench.model.load(adapter)
    return bench


def evaluate_adapter(
    adapter: str | Path,
    data: str | Path,
    lm: str | Path,
    states: str | Path,
    *,
    part: Part = "test",
    kind: Kind = "uniform",
) -> dict[str, float]:
    """Give the figures of both protocols on the fixed candidates of a part.

    Errors: `FingerprintError` for candidates of another hash than the adapter's run had.
    """
    bench = open_adapter(adapter, data, lm, states)
    candidates = bench.data.candidates(part, kind)
    expected = read_ilora(adapter)["facts"].get("candidates", {}).get(f"{kind}-{part}")
    if expected is not None:
        candidates.check(expected, where=str(bench.data.path / f"{kind}-{part}.npz"))
    found = judged(bench.ask(candidates), candidates, bench.data.sequences.titles)
    return {key: float(values.mean()) for key, values in found.items()} | {"n": float(len(candidates))}


def figures(found: Mapping[str, float]) -> str:
    """Give the figures as text, one a line."""
    return "\n".join(f"{key:<40}{value:.4f}" if key != "n" else f"{key:<40}{value:.0f}" for key, value in found.items())


def recommend(
    adapter: str | Path,
    data: str | Path,
    lm: str | Path,
    states: str | Path,
    out: str | Path,
    *,
    users: str | Path | None = None,
    items: str | Path | None = None,
) -> Path:
    """Rank items for users after everything they have had, by likelihood, and write a table.

    Parameters
    ----------
    users
        A table with a column `user`; default everybody.
    items
        A table with a column `item`: what may be recommended, up to 20. Default: the 20 items that the model of items
        puts first for each user among those the user has not had.

    Errors: `ConfigError` for a user or item that the sequences do not know, or more than 20 items.
    """
    bench = open_adapter(adapter, data, lm, states)
    sequences = bench.data.sequences
    chosen = _numbers(users, "user", sequences.users) if users else np.arange(len(sequences.users))
    rows = Rows(sequences, "test", sequences.offsets[1:][chosen] - 1)  # for keys and user numbers only
    ahead = _after(sequences, chosen)
    state = bench.source.states(ahead)
    listed = _listed(bench, chosen, ahead, items)
    asked = Candidates(rows.at, listed, np.zeros(len(rows), np.int64), "test", "uniform", 0, sequences.fingerprint)
    found = answer(bench.model, asked, ahead.history(HISTORY), state, rows.keys, writes=False)
    table = _table(sequences, chosen, listed, found.probability, found.weights)
    with new_file(out) as beside:
        table.write_parquet(beside)
    return Path(out)


def _after(sequences: Sequences, users: np.ndarray) -> Rows:
    """Rows whose past is everything a user has had: each user gets one more place, which is never read."""
    size = np.diff(sequences.offsets)[users]
    offsets = np.r_[0, np.cumsum(size + 1)]
    inside = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    item = np.zeros(int(offsets[-1]), np.int32)
    item[np.repeat(offsets[:-1], size) + inside] = sequences.item[
        np.repeat(sequences.offsets[:-1][users], size) + inside
    ]
    names = tuple(np.array(sequences.users, dtype=object)[users])
    longer = Sequences(sequences.titles, sequences.items, names, offsets, item, sequences.is_seen[users])
    return Rows(longer, "test", offsets[1:] - 1)


def _listed(bench: Bench, users: np.ndarray, ahead: Rows, items: str | Path | None) -> np.ndarray:
    sequences = bench.data.sequences
    if items is not None:
        numbers = _numbers(items, "item", sequences.items)
        if not 1 <= len(numbers) <= N_CANDIDATES:
            raise ConfigError(f"1 to {N_CANDIDATES} items", str(len(numbers)), where=str(items))
        return np.tile(numbers, (len(users), 1)).astype(np.int32)
    listed = np.empty((len(users), N_CANDIDATES), np.int32)
    for low in range(0, len(users), 1024):
        some = np.arange(low, min(low + 1024, len(users)))
        every = np.tile(np.arange(sequences.n_items), (len(some), 1))
        score = bench.source.scores(ahead.take(some), every)
        own = np.isin(ahead.sequences.owner, some)
        score[ahead.sequences.owner[own] - low, ahead.sequences.item[own]] = -np.inf
        listed[some] = np.argsort(-score, axis=1, kind="stable")[:, :N_CANDIDATES]
    return listed


def _numbers(file: str | Path, column: str, known: tuple[str, ...]) -> np.ndarray:
    import polars as pl

    path = Path(file)
    if not path.is_file():
        raise ConfigError("a Parquet or CSV file", "no such file", where=str(path))
    table = pl.read_csv(path, infer_schema=False) if path.suffix == ".csv" else pl.read_parquet(path)
    if column not in table.columns:
        raise ConfigError(f"a column {column}", f"columns: {', '.join(table.columns)}", where=str(path))
    asked = table.select(pl.col(column).cast(pl.String)).unique(maintain_order=True)
    place = pl.DataFrame({column: known, "number": np.arange(len(known))}, schema_overrides={column: pl.String})
    joined = asked.join(place, on=column, how="left", maintain_order="left")
    if joined["number"].null_count():
        first = joined.filter(pl.col("number").is_null())[column][0]
        fix = "leave it out, or prepare again from a store that has it"
        raise ConfigError(f"a {column} of the prepared sequences", repr(first), where=str(path), fix=fix)
    return joined["number"].to_numpy()


def _table(
    sequences: Sequences, users: np.ndarray, items: np.ndarray, probability: np.ndarray, weights: np.ndarray
) -> pl.DataFrame:
    import polars as pl

    order = np.argsort(-probability, axis=1, kind="stable")
    items, probability = (np.take_along_axis(a, order, axis=1) for a in (items, probability))
    n, size = items.shape
    columns: dict[str, Any] = {
        "user": np.repeat(np.array(sequences.users, dtype=object)[users], size).tolist(),
        "item": np.array(sequences.items, dtype=object)[items.ravel()].tolist(),
        "title": np.array(sequences.titles, dtype=object)[items.ravel()].tolist(),
        "rank": np.tile(np.arange(1, size + 1), n),
        "probability": probability.ravel(),
    }
    experts = {f"expert_{i}": np.repeat(weights[:, i], size) for i in range(weights.shape[1])}
    return pl.DataFrame(columns | experts)
