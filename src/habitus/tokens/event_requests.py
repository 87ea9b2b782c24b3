"""Histories handed in with the question: users that no store knows, encoded as the store's were."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from habitus.core.errors import SchemaError
from habitus.data.pipeline.zones import local_days
from habitus.tokens.batch import EventBatch
from habitus.tokens.event_loader import EventInputs, Stretches, assemble_events
from habitus.tokens.event_table import EventTable
from habitus.tokens.events import EventSpec, RawEvents


def request_inputs(spec: EventSpec, histories: Any) -> tuple[EventInputs, pl.Series]:
    """Turn a table of events into one stretch per user that ends at the user's last event; gives the users too.

    Parameters
    ----------
    histories
        A Polars frame, or what `polars.DataFrame` takes: a row per event with columns `user`, `time` (dates or
        datetimes, or their ISO text; local time of the spec's zone where no zone is given), and one per coded field and
        amount of the spec. Rows of one user and instant keep their order. Values the spec does not know are unknown.

    Users come in the order of their first row. Errors: `SchemaError` for a missing column or a time that cannot be
    read.
    """
    table = histories if isinstance(histories, pl.DataFrame) else pl.DataFrame(histories)
    _check_columns(spec, table)
    users = table["user"].unique(maintain_order=True)
    number = pl.DataFrame({"user": users, "_user": np.arange(len(users))}, schema_overrides={"user": users.dtype})
    table = table.with_columns(_time=instants(table["time"], spec.zone) // 1_000_000)
    table = table.join(number, on="user", maintain_order="left").sort("_user", "_time", maintain_order=True)
    user, time = table["_user"].to_numpy(), table["_time"].to_numpy()
    offsets = np.searchsorted(user, np.arange(len(users) + 1)).astype(np.int64)
    raw = RawEvents(
        offsets=offsets,
        time=time,
        ids={name: spec.lookup(name, table[name].cast(pl.String).to_list())[:-1] for name in spec.values},
        place=_codes(table[spec.tokens.place]) if "place" in spec.fields and spec.tokens.place else None,
        amounts={name: table[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in spec.amount_edges},
    )
    encoded = EventTable(spec, offsets, local_days(time * 1_000_000, spec.zone), time, *spec.encode(raw))
    high = offsets[1:]
    low = np.maximum(offsets[:-1], high - spec.length)
    unknown = np.full(len(users), np.nan)
    return EventInputs(encoded, Stretches(np.arange(len(users)), low, high, high, high, unknown)), users


def request_batch(spec: EventSpec, histories: Any) -> tuple[EventBatch, pl.Series]:
    """Give `request_inputs` as one batch, and its users; for a question about a few of them."""
    inputs, users = request_inputs(spec, histories)
    return assemble_events(inputs, np.arange(len(users))), users


def _check_columns(spec: EventSpec, table: pl.DataFrame) -> None:
    place = [spec.tokens.place] if "place" in spec.fields else []
    absent = [n for n in ("user", "time", *spec.values, *spec.amount_edges, *place) if n not in table.columns]
    if absent:
        raise SchemaError(f"a column {absent[0]!r}", "columns: " + ", ".join(table.columns), where="histories")


def instants(time: pl.Series, zone: str) -> pl.Series:
    """Give instants in microseconds UTC; times without a zone are local in `zone`. Errors: `SchemaError`."""
    try:
        if time.dtype == pl.String:
            time = time.str.to_datetime(time_unit="us")
        time = time.cast(pl.Datetime("us", getattr(time.dtype, "time_zone", None)))
        if time.dtype.time_zone is None:  # type: ignore[attr-defined]
            time = time.dt.replace_time_zone(zone, ambiguous="earliest")
    except pl.exceptions.PolarsError as cause:
        found = str(cause).splitlines()[0][:200]
        raise SchemaError("dates or datetimes", found, where="histories: time", fix="YYYY-MM-DD HH:MM:SS") from None
    if time.null_count():
        raise SchemaError("a time in every row", f"{time.null_count()} without", where="histories: time")
    return time.dt.epoch("us")


def _codes(values: pl.Series) -> np.ndarray:
    """Number the distinct texts of a column, -1 where there is none."""
    return (values.cast(pl.String).rank("dense").cast(pl.Int64) - 1).fill_null(-1).to_numpy()
