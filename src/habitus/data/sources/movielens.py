"""MovieLens as GroupLens publishes it, files in one folder.

100K: u.data, u.item, u.user. 1M: ratings.dat, movies.dat, users.dat.

Research terms: no redistribution, so nothing of it ships with the package. F. M. Harper and J. A. Konstan (2015), The
MovieLens Datasets, ACM TiiS 5, 4.

- User = member, item = film, one type `rating` with the amount `stars`.
- Times are seconds of UTC at which a rating was entered. Members enter many at once: half of all events share the
  instant of the one before. Ties keep the order of the file, which says nothing about what came first.
- Profile: age, gender, occupation, zip code. Items: title, year of release, genres.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from habitus.core.errors import SourceError
from habitus.data.log import EventLog
from habitus.data.schema import Schema

if TYPE_CHECKING:
    import polars as pl

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
SCHEMA = {
    "name": "ml_100k",
    "time_zone": "UTC",
    "events": {
        "user": "user",
        "item": "item",
        "time": "time",
        "time_unit": "s",
        "type": {"constant": "rating"},
        "amounts": {"stars": {"value": "stars", "unit": "stars", "min": 1, "max": 5}},
    },
    "profile": {
        "from": "table",
        "key": "user",
        "columns": {
            "age": {"column": "age", "kind": "number"},
            "gender": "gender",
            "occupation": "occupation",
            "zip": "zip",
        },
    },
    "items": {
        "from": "table",
        "key": "item",
        "columns": {
            "title": {"column": "title", "kind": "text"},
            "year": {"column": "year", "kind": "number"},
            "genres": {"column": "genres", "kind": "text"},
        },
    },
}


def movielens_100k(folder: str | Path) -> EventLog:
    """Give the MovieLens-100K log: user = member, item = film, type rating, amount stars.

    Parameters
    ----------
    folder
        Where u.data, u.item and u.user lie.

    Errors: `SourceError` when a file is absent or has another number of columns.

    >>> movielens_100k("no/such/folder")
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  the publisher's file u.data
    found     none
    where     no/such/folder
    """
    import polars as pl

    folder = Path(folder)
    events = _read(folder, "u.data", "\t", ("user", "item", "stars", "time"))
    users = _read(folder, "u.user", "|", ("user", "age", "gender", "occupation", "zip"))
    films = _read(folder, "u.item", "|", ("item", "title", "released", "video", "url", *GENRES))
    genres = pl.concat_list(pl.when(pl.col(g) == "1").then(pl.lit(g)) for g in GENRES).list.drop_nulls()
    films = films.select(
        "item", "title", year=pl.col("released").str.slice(-4).cast(pl.Float64), genres=genres.list.join("|")
    )
    events = events.with_columns(pl.col("stars").cast(pl.Float64), pl.col("time").cast(pl.Int64))
    return EventLog(Schema.parse(SCHEMA), events, users.with_columns(pl.col("age").cast(pl.Float64)), films)


def movielens_1m(folder: str | Path) -> EventLog:
    """Give the MovieLens-1M log, of the same form as the smaller one; age is the lower end of the member's class.

    Parameters
    ----------
    folder
        Where ratings.dat, movies.dat and users.dat lie.

    Errors: `SourceError` when a file is absent or has another number of columns.

    >>> movielens_1m("no/such/folder")
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  the publisher's file ratings.dat
    found     none
    where     no/such/folder
    """
    import polars as pl

    folder = Path(folder)
    events = _read(folder, "ratings.dat", "::", ("user", "item", "stars", "time"))
    users = _read(folder, "users.dat", "::", ("user", "gender", "age", "occupation", "zip"))
    films = _read(folder, "movies.dat", "::", ("item", "title", "genres"))
    year = pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Float64)
    films = films.select("item", "title", year=year, genres="genres")
    events = events.with_columns(pl.col("stars").cast(pl.Float64), pl.col("time").cast(pl.Int64))
    schema = Schema.parse(SCHEMA | {"name": "ml_1m"})
    return EventLog(schema, events, users.with_columns(pl.col("age").cast(pl.Float64)), films)


def _read(folder: Path, name: str, separator: str, columns: tuple[str, ...]) -> pl.DataFrame:
    import polars as pl

    path = folder / name
    if not path.is_file():
        raise SourceError(f"the publisher's file {name}", "none", where=str(folder))
    text = path.read_bytes().decode("latin-1")
    if len(separator) > 1:
        text, separator = text.replace("\t", " ").replace(separator, "\t"), "\t"
    try:
        table = pl.read_csv(
            text.encode("utf-8"),
            separator=separator,
            has_header=False,
            quote_char=None,
            infer_schema=False,
            null_values=[""],
        )
    except pl.exceptions.PolarsError as cause:
        raise SourceError(f"{len(columns)} columns", str(cause).splitlines()[0], where=str(path)) from None
    if len(table.columns) != len(columns):
        raise SourceError(f"{len(columns)} columns", f"{len(table.columns)}", where=str(path))
    return table.rename(dict(zip(table.columns, columns)))
