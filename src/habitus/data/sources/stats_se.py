"""Stats.StackExchange: accounts of a question-and-answer site, a set on which a calendar can tell nothing of a user.

Stack Exchange data dump, CC BY-SA: share-alike, so nothing of it ships with the package. Files, from a folder that the
user names, as they lie in the publisher's archive (`Posts.xml`, `Users.xml`, `Badges.xml`) or as Parquet or CSV with
the same columns (posts, users, badges). Any other site of the network reads the same.

- User = account; -1, the site's own account, is left out. Events: `register`, `question` and `answer` (posts with an
  owner), `badge`. Posts of other kinds (wiki pages, nominations) are not events.
- Posts that migrated from other sites are dated before their owner came: events before the day of registration are
  dropped.
- Never read: Score, ViewCount, AnswerCount, CommentCount, FavoriteCount, LastEditorUserId, Reputation, Views, UpVotes,
  DownVotes. They were written at the end of the dump.
- Posts that were deleted are absent from a dump, and so are deleted accounts: a bias that cannot be repaired.
- Known events: the federal holidays of the USA. Nothing is known ahead about a single account, which makes the set a
  negative control: a calendar of the future must gain nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from habitus.core.errors import SourceError
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.sources.published import read_published
from habitus.data.sources.xml_rows import read_rows

if TYPE_CHECKING:
    import polars as pl

SCHEMA = Path(__file__).with_name("stats_se.toml")
QUESTION, ANSWER = 1, 2  # PostTypeId
NOBODY = -1


def stats_se(folder: str | Path) -> EventLog:
    """Give the log of a Stack Exchange site: user = account, types register, question, answer, badge.

    Parameters
    ----------
    folder
        Where Posts.xml, Users.xml and Badges.xml of the unpacked archive lie, or the same three as Parquet or CSV.

    Errors: `SourceError` when a table or a column is absent, or a file is cut short.

    >>> stats_se("no/such/folder")
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  a folder with the publisher's files
    found     no such folder
    where     no/such/folder
    """
    import polars as pl

    from habitus.data.calendar import holiday_calendar

    users = _table(folder, "users", {"Id": pl.Int64, "CreationDate": pl.Datetime})
    users = users.select(user="Id", time="CreationDate").filter(pl.col("user") != NOBODY)
    events = _events(folder, users)
    first, last = users["time"].dt.date().min(), events["time"].dt.date().max()
    if first is None or last is None:
        raise SourceError("accounts with a date of creation", "none", where=str(folder))
    return EventLog(
        Schema.read(SCHEMA),
        events,
        users.select(pl.col("user").cast(pl.String), registered=pl.col("time").dt.date()),
        calendar=holiday_calendar("US", first.replace(day=1), last.replace(year=last.year + 1, day=1)),  # type: ignore[union-attr]
    )


def _events(folder: str | Path, users: pl.DataFrame) -> pl.DataFrame:
    """Rows user (text), time, type, rank; none before its user registered."""
    import polars as pl

    posts = _table(
        folder,
        "posts",
        {"PostTypeId": pl.Int64, "CreationDate": pl.Datetime, "OwnerUserId": pl.Int64},
    ).filter(pl.col("PostTypeId").is_in([QUESTION, ANSWER]))
    is_question = pl.col("PostTypeId") == QUESTION
    badges = _table(folder, "badges", {"UserId": pl.Int64, "Date": pl.Datetime})
    later = pl.concat(
        [
            posts.select(
                user="OwnerUserId",
                time="CreationDate",
                type=pl.when(is_question).then(pl.lit("question")).otherwise(pl.lit("answer")),
            ),
            badges.select(user="UserId", time="Date", type=pl.lit("badge")),
        ]
    ).join(users.select("user", came="time"), on="user", maintain_order="left")
    kept = later.filter(pl.col("time").dt.date() >= pl.col("came").dt.date()).drop("came").with_columns(rank=1)
    came = users.select("user", "time", type=pl.lit("register"), rank=0)
    return pl.concat([came, kept]).with_columns(pl.col("user").cast(pl.String))


def _table(folder: str | Path, name: str, columns: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    """Read NAME.xml with a capital, as the archive has it, else what else there is of that name."""
    import polars as pl

    path = Path(folder) / f"{name.capitalize()}.xml"
    if not path.is_file():
        return read_published(folder, (name, name.capitalize()), columns)
    text = read_rows(path, list(columns))
    absent = [column for column in columns if len(text) and text[column].null_count() == len(text)]
    if absent:
        raise SourceError(
            f"rows with an attribute {absent[0]!r}", "none", where=str(path), fix="take the publisher's own file"
        )
    try:
        return text.select(
            pl.col(column).str.to_datetime(time_unit="us") if kind == pl.Datetime else pl.col(column).cast(kind)
            for column, kind in columns.items()
        )
    except pl.exceptions.PolarsError as cause:
        raise SourceError("numbers and times in ISO form", str(cause).splitlines()[0], where=str(path)) from None
