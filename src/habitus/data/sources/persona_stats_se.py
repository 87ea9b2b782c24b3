"""Stats.StackExchange as rows of a next action: what does this user do within 30 days after this instant?

question (PostTypeId 1), answer (2), wiki (4, 5), badge, register; other kinds of posts and the site's own account are
left out, equal (user, time, type) merged. An instant holds everything of one user at one second and carries the first
of wiki, question, answer, badge; `register` is never what comes next. Personas are clusters of users as they were
before 2012-07; each row joins one as of its own instant. Columns written at the end of the dump are refused.

Stack Exchange data dump, CC BY-SA. Deleted posts and accounts are absent from it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.core.errors import SourceError
from habitus.core.seeds import mix, text_keys
from habitus.data.sources.published import read_published

if TYPE_CHECKING:
    import polars as pl

LABELS = ("none", "badge", "answer", "question", "wiki")
AS_OF_END = ("Score", "ViewCount", "AnswerCount", "CommentCount", "FavoriteCount", "LastEditorUserId", "Reputation",
             "Views", "UpVotes", "DownVotes")  # fmt: skip
TYPES = ("wiki", "question", "answer", "badge", "register")  # in the order an instant is labelled by
HORIZON = dt.timedelta(days=30)
KNOWN = dt.datetime(2012, 7, 1)  # personas are fitted on what lies before
WINDOWS = {
    0: (dt.datetime(2012, 7, 1), dt.datetime(2013, 9, 1)),
    1: (dt.datetime(2013, 10, 1), dt.datetime(2013, 12, 1)),
    2: (dt.datetime(2014, 1, 1), dt.datetime(2014, 8, 15)),
}  # train, valid, test
N_PERSONAS, N_LAST, N_TEXT = 8, 3, 16
NUMBERS = ("n_before", "log_tenure", "log_gap_1", "log_gap_2", "log_gap_3", "n_types_here",
           *(f"log_n_{name}" for name in TYPES), *(f"days_since_{name}" for name in TYPES),
           *(f"is_last_{name}" for name in TYPES), *(f"is_before_{name}" for name in TYPES), "n_30d", "weekday",
           "hour")  # fmt: skip


def refuse_end_columns(columns: Iterable[str]) -> None:
    """Raise when a column was written at the end of the dump: it knows the future of every row.

    Errors: `SourceError`.

    >>> refuse_end_columns(["OwnerUserId"])
    >>> refuse_end_columns(["Reputation"])
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  columns known at the instant of each row
    found     Reputation, written at the end of the dump
    to do     leave it out
    """
    bad = [name for name in columns if name in AS_OF_END]
    if bad:
        found = f"{', '.join(bad)}, written at the end of the dump"
        raise SourceError("columns known at the instant of each row", found, fix="leave it out")


def stats_events(folder: str | Path, *, more: Iterable[str] = ()) -> pl.DataFrame:
    """Give the merged events: user, time, type (place in `TYPES`). `more` names further columns, which are checked.

    Errors: `SourceError` for absent tables, or for columns of `AS_OF_END`.
    """
    import polars as pl

    refuse_end_columns(more)
    posts = read_published(
        folder, ("posts", "Posts"), {"PostTypeId": pl.Int64, "CreationDate": pl.Datetime, "OwnerUserId": pl.Int64}
    )
    kind = {1: "question", 2: "answer", 4: "wiki", 5: "wiki"}
    badges = read_published(folder, ("badges", "Badges"), {"UserId": pl.Int64, "Date": pl.Datetime})
    users = read_published(folder, ("users", "Users"), {"Id": pl.Int64, "CreationDate": pl.Datetime})
    parts = [
        posts.filter(pl.col("PostTypeId").is_in(list(kind))).select(
            user="OwnerUserId",
            time="CreationDate",
            type=pl.col("PostTypeId").replace_strict(kind, return_dtype=pl.String),
        ),
        badges.select(user="UserId", time="Date", type=pl.lit("badge")),
        users.select(user="Id", time="CreationDate", type=pl.lit("register")),
    ]
    places = {name: place for place, name in enumerate(TYPES)}
    events = pl.concat(parts).drop_nulls().filter(pl.col("user") != -1).unique()
    return events.with_columns(
        pl.col("time").dt.truncate("1s"), type=pl.col("type").replace_strict(places, return_dtype=pl.Int8)
    ).unique().sort("user", "time", "type")  # fmt: skip


def instants(folder: str | Path) -> Iterator[pl.DataFrame]:
    """Give all rows of train, valid and test as one table: content, cluster, label, keys, text, part and `NUMBERS`."""
    table = _instants(stats_events(folder))
    table = _with_personas(table)
    import polars as pl

    kept = table.filter(pl.col("part") >= 0)
    yield kept.sort("content", "thread_id")


def _instants(events: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    mine = pl.col("user")
    table = events.group_by("user", "time").agg(
        first=pl.col("type").min(), n_types_here=pl.len(),
        **{f"has_{t}": (pl.col("type") == i).any() for i, t in enumerate(TYPES)},
    ).sort("user", "time")  # fmt: skip
    seconds = pl.col("time").dt.epoch("s")
    words = pl.col("first").replace_strict(dict(enumerate(TYPES)), return_dtype=pl.String)
    table = table.with_columns(
        word=words,
        next=pl.col("first").shift(-1).over(mine), until=(pl.col("time").shift(-1).over(mine) - pl.col("time")),
        n_before=pl.int_range(pl.len()).over(mine),
        tenure=(seconds - seconds.first().over(mine)) / 86400,
        **{f"gap_{k}": ((seconds - seconds.shift(k).over(mine)) / 86400) for k in (1, 2, 3)},
        **{f"n_{t}": pl.col(f"has_{t}").cum_sum().over(mine) for t in TYPES},
        **{f"last_{t}": pl.when(pl.col(f"has_{t}")).then(seconds).forward_fill().over(mine) for t in TYPES},
        before=pl.col("first").shift(1).over(mine),
    )  # fmt: skip
    recent = table.select("user", "time").rolling("time", period="30d", group_by="user").agg(n_30d=pl.len())
    table = table.with_columns(n_30d=recent["n_30d"], seconds=seconds)
    last = [pl.col("word").shift(k).over(mine).fill_null("") for k in range(N_TEXT)]
    keys = [
        pl.concat_str([pl.col("word").shift(k).over(mine).fill_null("-") for k in range(n)], separator=" ")
        for n in (1, N_LAST)
    ]
    labels = {name: LABELS.index(name) for name in LABELS[1:]}
    is_soon = (pl.col("until") <= HORIZON) & (pl.col("next") < TYPES.index("register"))
    code = pl.col("next").replace_strict(
        {i: labels[t] for i, t in enumerate(TYPES[:-1])}, default=0, return_dtype=pl.Int8
    )
    part = pl.lit(-1, pl.Int8)
    for number, (start, stop) in WINDOWS.items():
        part = (
            pl.when((pl.col("time") >= start) & (pl.col("time") < stop)).then(pl.lit(number, pl.Int8)).otherwise(part)
        )
    return table.with_columns(
        post_text=pl.concat_str(last, separator=" ").str.strip_chars(), last_1=keys[0], last_3=keys[1],
        label=pl.when(is_soon).then(code).otherwise(0).cast(pl.Int8), part=part,
        thread_id=pl.format("{}@{}", "user", "seconds"),
    )  # fmt: skip


def _with_personas(table: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    shape = _shape(table)
    known = (table["time"] < KNOWN).to_numpy()
    newest = table.select(is_last=pl.int_range(pl.len()).over("user") == pl.len().over("user") - 1)[
        "is_last"
    ].to_numpy()
    if known.any():
        cut = table.filter(pl.Series(known)).select(at=pl.int_range(pl.len()).over("user") == pl.len().over("user") - 1)
        newest = np.zeros(len(table), bool)
        newest[np.flatnonzero(known)[cut["at"].to_numpy()]] = True
    centres = _centres(shape[newest])
    cluster = ((shape[:, None, :] - centres) ** 2).sum(axis=2).argmin(axis=1)
    user = table["user"].to_numpy()
    numbers = _numbers(table)
    keys = {name: mix(text_keys(table[name].to_list())) for name in ("last_1", "last_3")}
    return table.select("thread_id", "label", "part", "post_text").with_columns(
        content=pl.Series(mix(mix(user) ^ table["seconds"].to_numpy().astype(np.uint64)), dtype=pl.UInt64),
        cluster=pl.Series(cluster.astype(np.int32)), unit=pl.Series(mix(user), dtype=pl.UInt64),
        post_key=pl.Series(keys["last_3"], dtype=pl.UInt64), near_key=pl.Series(keys["last_1"], dtype=pl.UInt64),
        **{name: pl.Series(numbers[:, i]) for i, name in enumerate(NUMBERS)},
    )  # fmt: skip


def _shape(table: pl.DataFrame) -> np.ndarray:
    """What a persona is made of, as of each row: shares of types, how many, tenure, last gap; float32 [n, 8]."""
    n = np.stack([table[f"n_{name}"].to_numpy() for name in TYPES[:-1]], axis=1).astype(np.float32)
    total = n.sum(axis=1, keepdims=True)
    gap = table["gap_1"].fill_null(0).to_numpy()
    more = [np.log1p(total[:, 0]) / 4, np.log1p(table["tenure"].to_numpy()) / 4, np.log1p(np.maximum(gap, 0)) / 4]
    return np.concatenate([n / np.maximum(total, 1), np.stack(more, axis=1)], axis=1).astype(np.float32)


def _centres(shape: np.ndarray) -> np.ndarray:
    from sklearn.cluster import KMeans

    n = min(N_PERSONAS, len(np.unique(shape, axis=0)))
    means: Any = KMeans
    return np.asarray(means(n, random_state=0, n_init=4).fit(shape).cluster_centers_, np.float32)


def _numbers(table: pl.DataFrame) -> np.ndarray:
    """The columns `NUMBERS`, float32 [n, m]: absent values are -1."""
    now = table["seconds"].to_numpy()
    columns = [np.log1p(table["n_before"].to_numpy()), np.log1p(table["tenure"].to_numpy())]
    columns += [np.log1p(np.maximum(table[f"gap_{k}"].fill_null(-0.6).to_numpy(), -0.6)) for k in (1, 2, 3)]
    columns += [table["n_types_here"].to_numpy()]
    columns += [np.log1p(table[f"n_{name}"].to_numpy()) for name in TYPES]
    for name in TYPES:
        last = table[f"last_{name}"].cast(float).to_numpy()
        columns.append(np.where(np.isnan(last), -1, np.log1p(np.maximum(now - np.nan_to_num(last), 0) / 86400)))
    first, before = table["first"].to_numpy(), table["before"].fill_null(-1).to_numpy()
    columns += [first == i for i in range(len(TYPES))] + [before == i for i in range(len(TYPES))]
    columns += [
        np.log1p(table["n_30d"].to_numpy()),
        table["time"].dt.weekday().to_numpy(),
        table["time"].dt.hour().to_numpy(),
    ]
    return np.stack([np.asarray(each, np.float32) for each in columns], axis=1)
