"""Impressions to examples: one table of features for all models, fitted on training days, and its parts by day.

The dial says what the dense numbers hold: `static` (log price) `+match` (and the history against the target) `+stats`
(and click rates of complete earlier days) `+lurm` (and a vector per user and day that the caller brings).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from habitus.apps.ctr.examples import Examples
from habitus.apps.ctr.match import match_columns, match_names
from habitus.apps.ctr.spec import FeatureSpec, vocabulary
from habitus.apps.ctr.target_stats import has_known_labels, stat_columns
from habitus.core.errors import ConfigError, CutoffError, FingerprintError
from habitus.core.seeds import mix, uniforms
from habitus.data.history import CHUNK, History, rows_before
from habitus.data.impressions import DAY, Impressions

Features = Literal["static", "+match", "+stats", "+lurm"]
DIAL: tuple[str, ...] = ("static", "+match", "+stats", "+lurm")
PARTS = ("train", "valid", "test")
N_PRICE_BINS, N_CROSS_BUCKETS = 10, 20_000
FIT_ROWS = 1_000_000
EXTRA = ("cate_brand", "price_bin", "hour", "weekday", "has_profile")


def make_examples(
    shown: Impressions,
    *,
    features: Features = "+stats",
    days: Mapping[str, tuple[int, int]] | None = None,
    min_count: int = 10,
    guard: int = 0,
    lurm: np.ndarray | None = None,
    spec: FeatureSpec | None = None,
) -> dict[str, Examples]:
    """Give the examples of train, valid and test.

    Parameters
    ----------
    shown
        From `open_taobao_ad`, `read_taobao_ad` or `complete_journey_sends`.
    features
        The dial.
    days
        First and end local day (exclusive) of each part; by default the last day is test, the one before valid, the
        rest train: 6 + 1 + 1 of eight days.
    min_count
        A value with fewer impressions (for category and brand: impressions and behaviours) on training days is unseen.
    guard
        Seconds before the impression that its history ends; 0 is strictly before.
    lurm
        float32 [n, d] for `+lurm`, a vector per impression from behaviour before its local midnight.
    spec
        One that was fitted before; then nothing is fitted.

    Errors: `CutoffError` when a part has no rows, `ConfigError` for an unknown dial or missing vectors.
    """
    if features not in DIAL:
        raise ConfigError(f"one of: {', '.join(DIAL)}", repr(features), where="features")
    if (features == "+lurm") != (lurm is not None):
        raise ConfigError("vectors with '+lurm', and only then", f"features {features!r}", where="lurm")
    spans = days or default_days(shown)
    masks = {name: (shown.day >= low) & (shown.day < high) for name, (low, high) in spans.items()}
    for name, mask in masks.items():
        if not mask.any():
            raise CutoffError(f"impressions on the days of {name}", "none", where=f"days {spans[name]}")
    raw_dense, names = dense_columns(shown, features, guard=guard, lurm=lurm)
    if spec is None:
        spec = fit_spec(shown, masks["train"], spans["train"][1], raw_dense, names, features, min_count)
    whole = encode(shown, spec, raw_dense, names, guard=guard)
    return {name: whole.rows(mask) for name, mask in masks.items()}


def default_days(shown: Impressions) -> dict[str, tuple[int, int]]:
    """Give the days of train, valid (one) and test (one, the last)."""
    if not len(shown) or int(np.ptp(shown.day)) < 2:
        raise CutoffError("impressions on at least three days", "fewer", where="days")
    first, last = int(shown.day.min()), int(shown.day.max())
    return {"train": (first, last - 1), "valid": (last - 1, last), "test": (last, last + 1)}


def dense_columns(
    shown: Impressions, features: str, *, guard: int = 0, lurm: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Give the raw numbers of the dial, float32 [n, N], and their names. NaN: no price."""
    level = DIAL.index(features)
    parts, names = [np.log1p(shown.price)[:, None].astype(np.float32)], ["log_price"]
    if level >= 1:
        parts.append(match_columns(shown, guard=guard))
        names += match_names(shown.log.kinds)
    if level >= 2:
        stats = stat_columns(shown)
        parts += [values[:, None].astype(np.float32) for values in stats.values()]
        names += stats
    if lurm is not None:
        parts.append(lurm.astype(np.float32))
        names += [f"lurm_{i}" for i in range(lurm.shape[1])]
    return np.concatenate(parts, axis=1), tuple(names)


def fit_spec(
    shown: Impressions,
    train: np.ndarray,
    end_day: int,
    dense: np.ndarray,
    names: tuple[str, ...],
    features: str,
    min_count: int,
) -> FeatureSpec:
    """Fit vocabularies, bins, clips and scales on training rows, and on behaviours before the end of training.

    Clips and scales come from at most some two million rows, evenly taken.
    """
    log = shown.log
    vocabularies = {name: vocabulary(values[train], min_count) for name, values in shown.ids.items()}
    for name, target, past in (("cate", shown.cate, log.cate), ("brand", shown.brand, log.brand)):
        counts = np.bincount(target[train])
        for low in range(0, log.n_events, CHUNK):  # a long log is never copied whole
            part = slice(low, low + CHUNK)
            early = np.asarray(log.time[part]) < end_day * DAY - shown.utc_offset
            counts = _added(counts, np.bincount(np.asarray(past[part])[early]))
        vocabularies[name] = np.flatnonzero(counts >= min_count)
    prices = np.log1p(shown.price[train])
    prices = prices[np.isfinite(prices)]
    inner = np.linspace(0, 1, N_PRICE_BINS + 1)[1:-1]
    edges = np.unique(np.quantile(prices, inner)) if prices.size else np.zeros(0)
    fitted = np.flatnonzero(train)
    rows = dense[fitted[:: max(1, len(fitted) // FIT_ROWS)]].astype(np.float64)
    rows[~np.isfinite(rows)] = np.nan
    rows = np.where(np.isnan(rows).all(axis=0), 0.0, rows)
    low, high = np.nanquantile(rows, (0.001, 0.999), axis=0)
    clipped = np.clip(rows, low, high)
    scale = np.nanstd(clipped, axis=0)
    return FeatureSpec(
        static_names=(*shown.ids, "cate", "brand", *EXTRA), dense_names=names, kinds=shown.log.kinds,
        features=features, min_count=min_count, utc_offset=shown.utc_offset, delay=shown.delay,
        n_price_bins=N_PRICE_BINS, n_cross_buckets=N_CROSS_BUCKETS, vocabularies=vocabularies, log_price_edges=edges,
        clip_low=low, clip_high=high, mean=np.nanmean(clipped, axis=0), scale=np.where(scale > 1e-9, scale, 1.0),
    )  # fmt: skip


def encode(
    shown: Impressions, spec: FeatureSpec, dense: np.ndarray, names: tuple[str, ...], *, guard: int = 0
) -> Examples:
    """Give the examples of all rows under a fitted spec.

    Errors: `FingerprintError` when the columns are not those of the spec.
    """
    if names != spec.dense_names or (*shown.ids, "cate", "brand", *EXTRA) != spec.static_names:
        raise FingerprintError("the columns of the spec", f"{len(names)} other ones", where="features")
    target = np.stack([spec.code_cate(shown.cate), spec.code_brand(shown.brand)], axis=1).astype(np.int32)
    codes = {name: spec.code(name, values) for name, values in shown.ids.items()}
    cross = mix(shown.cate.astype(np.uint64) << np.uint64(32) | shown.brand.astype(np.uint64))
    price = np.searchsorted(spec.log_price_edges, np.log1p(np.nan_to_num(shown.price)), side="right") + 1
    codes |= {
        "cate": target[:, 0],
        "brand": target[:, 1],
        "cate_brand": (cross % np.uint64(spec.n_cross_buckets)).astype(np.int32) + 1,
        "price_bin": np.where(np.isnan(shown.price), 0, price),
        "hour": shown.hour + 1,
        "weekday": (shown.day + 3) % 7 + 1,  # 1970-01-01 was a Thursday; Monday is 1
        "has_profile": shown.has_profile + 1,
    }
    return Examples(
        user=shown.user, time=shown.time, day=shown.day, label=shown.label,
        static=np.stack([codes[name] for name in spec.static_names], axis=1).astype(np.int32),
        dense=spec.scaled(dense), target=target, history=History.before(shown.log, shown.user, shown.time, guard=guard),
        truth=shown.truth, spec=spec, has_stats=has_known_labels(shown), source=shown.source,
    )  # fmt: skip


def some_users(shown: Impressions, share: float, *, seed: int = 0) -> Impressions:
    """Keep the impressions of a share of users, by a hash of their id: never a share of rows."""
    return shown.rows(uniforms(seed, shown.ids["user"], stream="some users") < share)


def midnight_history(shown: Impressions) -> History:
    """Give the history of each impression before its local midnight: what a LURM vector for `+lurm` may read.

    The vector is then the same for all impressions of a user and day, and no event of that day is in it.
    """
    midnight = shown.day.astype(np.int64) * DAY - shown.utc_offset
    return History(shown.log, shown.log.offsets[shown.user], rows_before(shown.log, shown.user, midnight))


def _added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total = np.zeros(max(len(a), len(b)), np.int64)
    total[: len(a)] += a
    total[: len(b)] += b
    return total
