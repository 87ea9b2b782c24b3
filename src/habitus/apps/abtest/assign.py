"""Who gets what: a salted hash, the same in Python, DuckDB and PostgreSQL, on any day and any machine.

bucket = h * 10,000 >> 32, where h is the number written by the first 8 hexadecimal digits of md5("salt:unit").
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from habitus.apps.abtest.declare import N_BUCKETS, Experiment
from habitus.core.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

Dialect = Literal["duckdb", "postgresql"]
OUTSIDE, CONTROL, TREATMENT = -1, 0, 1
ARMS = ("control", "treatment")


def buckets(units: Any, salt: str) -> np.ndarray:
    """Give the bucket of each unit, int32 [n], 0 .. 9,999.

    `units` is a Polars series, an array or a list of texts or whole numbers; 7 and "7" are one unit.
    Errors: `ConfigError` for units that are missing or fractional: their text differs from machine to machine.

    >>> buckets(["anna", "bert"], "checkout").tolist()
    [5862, 4654]
    """
    return next(buckets_of(units, [salt]))


def buckets_of(units: Any, salts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yield the buckets of the same units under one salt after the other."""
    import duckdb
    import polars as pl

    column = pl.Series("unit", units)
    if not (column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical, pl.Enum)):
        raise ConfigError("units as text or whole numbers", str(column.dtype), where="assign", fix="cast them to text")
    if column.null_count():
        raise ConfigError(
            "a unit in every row", f"{column.null_count():,} empty", where="assign", fix="drop those rows"
        )
    with duckdb.connect() as engine:
        engine.execute("SET threads = 1")  # keeps the order of rows
        engine.register("units", column.cast(pl.String).to_frame().to_arrow())
        for salt in salts:
            query = f"SELECT ({bucket_sql(salt, 'unit')})::INTEGER AS bucket FROM units"
            yield np.asarray(engine.execute(query).fetchnumpy()["bucket"], dtype=np.int32)


def arms(bucket: np.ndarray, share: float, within: tuple[int, int] = (0, N_BUCKETS)) -> np.ndarray:
    """Give the arm of each bucket, int8: 1 treatment, 0 control, -1 outside.

    Each arm gets `share` of the range `within`: treatment from its lower end up, control from its upper end down.

    >>> arms(np.array([0, 49, 50, 9949, 9950]), 0.005).tolist()
    [1, 1, -1, -1, 0]
    """
    low, high = _edges(share, within)
    arm = np.full(np.shape(bucket), OUTSIDE, np.int8)
    arm[(bucket >= within[0]) & (bucket < low)] = TREATMENT
    arm[(bucket >= high) & (bucket < within[1])] = CONTROL
    return arm


def assign(experiment: Experiment, units: Any, share: float | None = None) -> pl.DataFrame:
    """Give a table user, bucket, arm of the units inside the experiment; `share` per arm, as at the end of the ramp.

    Errors: `ConfigError` for a share above one half, and for units that occur twice.
    """
    import polars as pl

    bucket = buckets(units, experiment.salt)
    arm = arms(bucket, experiment.ramp[-1] if share is None else share, experiment.buckets)
    table = pl.DataFrame({"user": pl.Series("user", units), "bucket": bucket, "arm": arm})
    if table["user"].n_unique() < len(table):
        raise ConfigError("each unit once", f"{len(table) - table['user'].n_unique():,} repeats", where="assign")
    names = pl.when(pl.col("arm") == TREATMENT).then(pl.lit(ARMS[1])).otherwise(pl.lit(ARMS[0]))
    return table.filter(pl.col("arm") != OUTSIDE).with_columns(arm=names)


def bucket_sql(salt: str, unit: str = "user_id", dialect: Dialect = "duckdb") -> str:
    """Give the SQL expression of the bucket of column `unit`.

    >>> print(bucket_sql("checkout", "id", "postgresql"))
    (('x' || substr(md5('checkout:' || id::text), 1, 8))::bit(32)::bigint * 10000) >> 32
    """
    text = salt.replace("'", "''")
    if dialect == "postgresql":
        return f"(('x' || substr(md5('{text}:' || {unit}::text), 1, 8))::bit(32)::bigint * {N_BUCKETS}) >> 32"
    return f"(('0x' || substr(md5('{text}:' || {unit}::VARCHAR), 1, 8))::BIGINT * {N_BUCKETS}) >> 32"


def arm_sql(
    experiment: Experiment,
    share: float | None = None,
    *,
    unit: str = "user_id",
    table: str = "users",
    dialect: Dialect = "duckdb",
) -> str:
    """Give a query that assigns every row of `table`: the twin of `assign`, arm NULL outside the experiment."""
    low, high = _edges(experiment.ramp[-1] if share is None else share, experiment.buckets)
    first, end = experiment.buckets
    unit = '"' + unit.replace('"', '""') + '"'  # `user` alone is a function in PostgreSQL
    return (
        f"SELECT {unit}, CASE WHEN bucket >= {first} AND bucket < {low} THEN '{ARMS[1]}'\n"
        f"    WHEN bucket >= {high} AND bucket < {end} THEN '{ARMS[0]}' END AS arm\n"
        f"FROM (SELECT {unit}, {bucket_sql(experiment.salt, unit, dialect)} AS bucket FROM {table}) AS hashed"
    )


def check_layer(experiments: Sequence[Experiment]) -> None:
    """Refuse experiments of one layer whose buckets overlap. Errors: `ConfigError` naming both."""
    ordered = sorted(experiments, key=lambda each: (each.salt, each.buckets))
    for one, other in itertools.pairwise(ordered):
        if one.salt == other.salt and other.buckets[0] < one.buckets[1]:
            raise ConfigError(
                "disjoint buckets inside a layer",
                f"{one.name} has {list(one.buckets)}, {other.name} has {list(other.buckets)}",
                where=f"salt {one.salt!r}",
                fix="give them disjoint buckets, or another salt where both may reach the same users",
            )


def read_units(path: str | Path, column: str) -> pl.Series:
    """Read one column of units from a Parquet or CSV file; text in CSV stays text."""
    from habitus.apps.abtest.tables import read_table

    return read_table(path, {column: "user"})["user"]


def _edges(share: float, within: tuple[int, int]) -> tuple[int, int]:
    if not 0 < share <= 0.5:
        raise ConfigError("a share per arm in (0, 0.5]", f"{share}", where="assign")
    size = round(share * (within[1] - within[0]))
    return within[0] + size, within[1] - size
