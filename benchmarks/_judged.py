"""What-if answers of a trained run beside the true effects of its simulated world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

import habitus
from habitus.data.sources.simulator import World, effects
from habitus.data.sources.simulator.truth import last_cutoff
from habitus.tasks.run import Run

MEASURE = {"buy": "p", "spend": "amount", "spend_quantile": "amount", "days": "days"}


@dataclass(frozen=True)
class Judged:
    """One event, one target: the forecast effect of dropping the event, sign turned, beside the truth.

    Attributes
    ----------
    correlation
        Between forecast and true effect over the users the event addresses; NaN where the true effect is 0 for all.
    correlation_all
        The same over all users.
    reading
        "window" or "days": which of the two readings of the effect this is.
    total, low, high
        Forecast effect summed over users with its 90 % interval.
    true_total
        What it really is.
    base
        The true total of the target itself, to see how large the effect is.
    """

    draw: int
    event: str
    type: str
    target: str
    reading: str
    n_addressed: int
    correlation: float
    correlation_all: float
    rmse: float
    total: float
    low: float
    high: float
    true_total: float
    base: float

    @property
    def ratio(self) -> float:
        """Forecast total / true total."""
        return self.total / self.true_total if self.true_total else float("nan")

    @property
    def is_covered(self) -> bool:
        """Whether the interval holds the true total."""
        return self.low <= self.true_total <= self.high


def judge(run: Run, world: World, draw: int, event_type: str = "purchase") -> list[Judged]:
    """Drop each coming event in turn and set the answers beside the truth."""
    horizon = run.recipe.cutoffs.horizon
    cutoff = last_cutoff(world, horizon)
    truth = effects(world, cutoff, horizon).filter(event_type=event_type).with_columns(pl.col("user").cast(pl.String))
    names = truth["event"].unique(maintain_order=True).to_list()
    calendar = run.store.calendar
    others = [calendar.without(events=[name]) for name in names]
    file = run.path / "effects.parquet"
    options = {"placebos": 0, "with_importance": False}
    section = habitus.whatif(run, [calendar, *others], cutoff=cutoff, out=file, **options)
    answers = pl.read_parquet(file).with_columns(pl.col("user").cast(pl.String))
    found = []
    for name, asked in zip(names, section["calendars"][1:]):
        of_event = truth.filter(event=name)
        for target in [t.name for t in run.recipe.targets]:
            row = next(r for r in section["rows"] if r["calendar"] == asked and r["target"] == target)
            mine = answers.filter(calendar=asked, target=target)
            both = mine.join(of_event, on="user")
            found.append(_one(draw, target, "window", row, both))
            if row["day_difference"] is not None:
                found.append(_one(draw, target, "days", row, both))
    return found


def _one(draw: int, target: str, reading: str, row: dict, table: pl.DataFrame) -> Judged:
    measure = MEASURE[target]
    column, prefix = {"window": ("difference", ""), "days": ("by_days", "day_")}[reading]
    forecast, true = -table[column].to_numpy(), table[f"{measure}_effect"].to_numpy()
    is_sent = table["is_addressed"].to_numpy()
    return Judged(
        draw=draw,
        event=table["event"][0],
        type=table["planted_type"][0],
        target=target,
        reading=reading,
        n_addressed=int(is_sent.sum()),
        correlation=_correlation(forecast[is_sent], true[is_sent]),
        correlation_all=_correlation(forecast, true),
        rmse=float(np.sqrt(np.mean((forecast - true)[is_sent] ** 2))),
        total=float(forecast.sum()),
        low=np.nan if row[f"{prefix}high"] is None else -row[f"{prefix}high"],
        high=np.nan if row[f"{prefix}low"] is None else -row[f"{prefix}low"],
        true_total=float(true.sum()),
        base=float(table[measure].sum()),
    )


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if len(one) < 2 or one.std() == 0 or other.std() == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
