"""How often an ad, a brand or a user was clicked so far: from complete earlier days only, never from the same day."""

from __future__ import annotations

import numpy as np

from habitus.core.errors import ConfigError
from habitus.data.impressions import Impressions

PRIOR_WEIGHT = 50.0
FIRST_RATE = 0.05  # before any label is known; fixed, so that no label can reach the first day
STAT_FIELDS = ("adgroup", "campaign_id", "customer", "cate", "brand", "cate_gender", "cate_age", "user")
_SPAN = 1 << 20  # days per key


def target_stats(
    key: np.ndarray, day: np.ndarray, label: np.ndarray, *, delay: int = 0, same_day: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Give for each of n rows the smoothed click rate of its key so far, and log(1 + views so far): float64 [n].

    Rate: (clicks + a p) / (views + a) with a = 50 and p the rate of all rows known by then. A row of day d is known
    from day d + max(1, delay) on: complete days only, and a label that takes `delay` days is not known before. Before
    anything is known p is 0.05. `same_day` makes the mistake on purpose, for the audit: it counts the whole day of
    the row, its own label too.

    Errors: `ConfigError` for a negative delay or days that are not small positive numbers.

    >>> rate, seen = target_stats(np.array([1, 1, 1]), np.array([10, 11, 12]), np.array([1, 0, 0]))
    >>> rate.round(3).tolist(), seen.round(3).tolist()
    ([0.05, 1.0, 0.5], [0.0, 0.693, 1.099])
    """
    day = np.asarray(day, np.int64)
    if delay < 0 or (day.size and (day.min() < 0 or day.max() + delay + 1 >= _SPAN)):
        raise ConfigError("delay >= 0 and days since 1970", f"delay {delay}", where="target statistics")
    known = day + (0 if same_day else max(1, delay))
    _, code = np.unique(key, return_inverse=True)
    clicks, views = _running(code * _SPAN + known, label, code * _SPAN + day, code * _SPAN)
    all_clicks, all_views = _running(known, label, day, np.zeros_like(day))
    overall = np.where(all_views > 0, all_clicks / np.maximum(all_views, 1), FIRST_RATE)
    return (clicks + PRIOR_WEIGHT * overall) / (views + PRIOR_WEIGHT), np.log1p(views)


def stat_columns(shown: Impressions, *, same_day: bool = False) -> dict[str, np.ndarray]:
    """Give rate and log views for every field of `STAT_FIELDS` that the table has."""
    found = {}
    for name, key in _keys(shown).items():
        rate, seen = target_stats(key, shown.day, shown.label, delay=shown.delay, same_day=same_day)
        found |= {f"stat_{name}_rate": rate, f"stat_{name}_views": seen}
    return found


def has_known_labels(shown: Impressions) -> np.ndarray:
    """Say for each row whether any label was known before its day: bool [n]."""
    if not len(shown):
        return np.zeros(0, bool)
    return shown.day >= int(shown.day.min()) + max(1, shown.delay)


def _keys(shown: Impressions) -> dict[str, np.ndarray]:
    keys = {name: shown.ids[name] for name in STAT_FIELDS if name in shown.ids}
    keys |= {"cate": shown.cate, "brand": shown.brand}
    for name, fields in (("cate_gender", ("final_gender_code", "gender")), ("cate_age", ("age_level", "age"))):
        field = next((field for field in fields if field in shown.ids), None)
        if field is not None:
            keys[name] = shown.cate.astype(np.int64) * 1000 + shown.ids[field]
    return {name: keys[name] for name in STAT_FIELDS if name in keys}


def _running(
    known: np.ndarray, label: np.ndarray, asked: np.ndarray, floor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum label and count over rows with floor <= known <= asked."""
    order = np.argsort(known, kind="stable")
    known = known[order]
    total = np.concatenate([[0], label[order].astype(np.int64).cumsum()])
    high, low = np.searchsorted(known, asked, side="right"), np.searchsorted(known, floor, side="left")
    return (total[high] - total[low]).astype(np.float64), (high - low).astype(np.float64)
