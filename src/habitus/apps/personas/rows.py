"""Rows of a study, prepared once: streamed into Parquet, split by content or by time, read in blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from habitus.core.atomic import new_file, new_folder, write_json
from habitus.core.errors import IngestError
from habitus.core.seeds import mix, uniforms

if TYPE_CHECKING:
    import polars as pl

Part = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")
SHARES = (0.8, 0.9)  # where valid and test begin
BLOCK = 100_000


@dataclass(frozen=True)
class Rows:
    """n rows to answer. The text of row i is `texts[text_of[i]]`; its key is 0 where there is none.

    Attributes
    ----------
    content
        uint64 [n], a hash of what the row shows: decides fold and split.
    cluster, label
        int32 [n] persona, int64 [n] place in the labels, -1 unknown.
    key
        uint64 [n], the exact key of the lookup, 0 for none; `near` the key of the near level, equal to `key` where the
        source has no notion of near (threads find theirs by the text).
    numbers
        float32 [n, m]: what the source knows in numbers, named by `names`.
    unit
        uint64 [n]: rows of one unit (post, user) are resampled together.
    """

    content: np.ndarray
    cluster: np.ndarray
    label: np.ndarray
    key: np.ndarray
    near: np.ndarray
    unit: np.ndarray
    numbers: np.ndarray
    text_of: np.ndarray
    texts: pl.Series
    replies: pl.Series
    ids: pl.Series
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.content)

    def take(self, rows: np.ndarray) -> Rows:
        """Give some rows; texts stay whole."""
        kept = {"texts": self.texts, "names": self.names}
        made = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in kept}
        chosen = {
            name: value[rows] if isinstance(value, np.ndarray) else value.gather(rows) for name, value in made.items()
        }
        return Rows(**chosen, **kept)


def fold_of(content: np.ndarray, n_folds: int) -> np.ndarray:
    """Give the fold of each row by its content, int16 [n]: equal rows share one, their order does not matter."""
    return (mix(content ^ np.uint64(0x5F01D)) % np.uint64(n_folds)).astype(np.int16)


def prepare(
    blocks: Iterable[pl.DataFrame], out: Path, *, split: str, seed: int, time: str = "rank_action"
) -> dict[str, int]:
    """Write OUT/part-NAME/*.parquet from blocks of rows and give the number of rows of each part.

    `random`: by a hash of the content, 80/10/10. `time`: per persona, the first 80 % by the column `time` train, the
    last 10 % test; ties at an edge go to the earlier part.
    """
    import polars as pl

    with new_folder(out, replace=True) as folder:
        (folder / "all").mkdir()
        for number, block in enumerate(blocks):
            block.write_parquet(folder / "all" / f"{number:05d}.parquet", compression="zstd", compression_level=1)
        files = sorted((folder / "all").glob("*.parquet"))
        whole = pl.scan_parquet(files) if files else None
        if whole is None or not whole.select(pl.len()).collect().item():
            raise IngestError("rows that can be used", "none", where=str(out))
        edges = None
        if split == "time":
            edges = whole.group_by("cluster").agg(
                a=pl.col(time).quantile(SHARES[0], "lower"), b=pl.col(time).quantile(SHARES[1], "lower")
            ).collect()  # fmt: skip
        counts: Counter[str] = Counter()
        for name in PARTS:
            (folder / name).mkdir()
        for file in files:
            table = pl.read_parquet(file)
            place = _place(table, split, seed, edges, time)
            for code, name in enumerate(PARTS):
                some = table.filter(pl.Series(place == code))
                counts[name] += len(some)
                if len(some):
                    some.write_parquet(folder / name / file.name, compression="zstd", compression_level=1)
            file.unlink()
        (folder / "all").rmdir()
        write_json(folder / "parts.json", dict(counts))
    return dict(counts)


def _place(table: pl.DataFrame, split: str, seed: int, edges: pl.DataFrame | None, time: str) -> np.ndarray:
    if "part" in table.columns:
        return table["part"].to_numpy()
    if edges is None:
        return np.searchsorted(SHARES, uniforms(seed, table["content"].to_numpy(), stream="split"), side="right")
    joined = table.select("cluster", time).join(edges, on="cluster", how="left", maintain_order="left")
    at = joined[time].to_numpy()
    return (at > joined["a"].to_numpy()).astype(int) + (at > joined["b"].to_numpy())


def stream(folder: Path, part: str, size: int = BLOCK) -> Iterator[pl.DataFrame]:
    """Give the prepared rows of a part in tables of at most `size` rows."""
    import polars as pl

    for file in sorted((folder / part).glob("*.parquet")):
        yield from pl.read_parquet(file).iter_slices(size)


def sample(folder: Path, part: str, most: int, seed: int) -> pl.DataFrame:
    """Give at most about `most` rows of a part, chosen by content, in order of content."""
    import polars as pl

    files = sorted((folder / part).glob("*.parquet"))
    if not files:
        raise IngestError(f"rows in the part {part!r}", "none", where=str(folder), fix="give more threads")
    n = pl.scan_parquet(files).select(pl.len()).collect().item()
    tables = []
    for file in files:
        table = pl.read_parquet(file)
        if n > most:
            chance = uniforms(seed, table["content"].to_numpy(), stream=f"sample of {part}")
            table = table.filter(pl.Series(chance < most / n))
        tables.append(table)
    return pl.concat(tables).sort("content", "thread_id")


def write_rejects(path: Path, tables: list[pl.DataFrame]) -> Counter[str]:
    """Write the rejected lines (position, reason) and count the reasons."""
    import polars as pl

    whole = pl.concat(tables) if tables else pl.DataFrame(schema={"position": pl.Int64, "reason": pl.String})
    with new_file(path) as beside:
        whole.write_parquet(beside)
    return Counter(whole["reason"].to_list())
