"""LastFM artist sequences as prepared for LLaRA and iLoRA, as Parquet: items, train, valid and test in one folder.

Research use by custom, so nothing of it ships with the package. Liao et al. (2024), arXiv 2312.02445; Kong et al.
(2024), arXiv 2408.10159.

- items: item_id, title. train, valid, test: seq (up to 10 item ids, padded on the right), len_seq, next.
- The train windows follow each other user by user: a window of pads alone begins a user, and its `next` is the first
  item. Chained they are whole sequences. Each valid and test window is one further user, marked `unseen`.
- There are no times: position p is given the instant p seconds after 2000-01-01 UTC.
- Item ids follow first appearance in the file, which leaks the order of events: never read them as numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from habitus.core.errors import SourceError
from habitus.data.log import EventLog
from habitus.data.schema import Schema

if TYPE_CHECKING:
    import polars as pl

START = 946_684_800  # 2000-01-01 UTC
_COLUMNS = {"items": {"item_id", "title"}} | {part: {"seq", "len_seq", "next"} for part in ("train", "valid", "test")}
SCHEMA = {
    "name": "lastfm_titles",
    "time_zone": "UTC",
    "events": {"user": "user", "item": "item", "time": "time", "time_unit": "s", "type": {"constant": "listen"}},
    "profile": {"from": "table", "key": "user", "columns": {"unseen": "unseen"}},
    "items": {"from": "table", "key": "item", "columns": {"title": {"column": "title", "kind": "text"}}},
}


def lastfm_titles(folder: str | Path) -> EventLog:
    """Give the LastFM log: user = listener, item = artist, one type, and who is `unseen` in the profile.

    Errors: `SourceError` when a file or a column is absent, or the first train window does not begin a user.

    >>> lastfm_titles("no/such/folder")
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  a file items.parquet
    found     none
    where     no/such/folder
    """
    import polars as pl

    items, train, valid, test = (_read(Path(folder), name) for name in ("items", "train", "valid", "test"))
    begins = train["seq"].list.first() == train["seq"].list.last()
    begins = begins & (train["len_seq"] == 1)
    if not len(train) or not begins[0]:
        raise SourceError("a first train window of pads", "another", where=f"{folder}/train.parquet")
    chained = pl.DataFrame({"user": begins.cum_sum(), "item": train["next"]})
    chained = chained.select(user=pl.format("train-{}", "user"), item="item", unseen=pl.lit("no"))
    alone = [_windows(part, name) for name, part in (("valid", valid), ("test", test))]
    events = pl.concat([chained, *alone]).with_columns(pl.col("item").cast(pl.String))
    events = events.with_columns(time=START + pl.int_range(pl.len()).over("user"))
    users = events.select("user", "unseen").unique("user", maintain_order=True)
    items = items.select(item=pl.col("item_id").cast(pl.String), title="title")
    return EventLog(Schema.parse(SCHEMA), events.select("user", "item", "time"), users, items)


def _windows(part: pl.DataFrame, name: str) -> pl.DataFrame:
    import polars as pl

    whole = part.select(
        user=pl.format("{}-{}", pl.lit(name), pl.int_range(pl.len())),
        item=pl.concat_list(pl.col("seq").list.head(pl.col("len_seq")), pl.col("next")),
    )
    return whole.explode("item").with_columns(unseen=pl.lit("yes"))


def _read(folder: Path, name: str) -> pl.DataFrame:
    import polars as pl

    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise SourceError(f"a file {name}.parquet", "none", where=str(folder))
    table = pl.read_parquet(path)
    if missing := _COLUMNS[name] - set(table.columns):
        raise SourceError(f"columns {', '.join(sorted(missing))}", f"{', '.join(table.columns)}", where=str(path))
    return table
