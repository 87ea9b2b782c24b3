"""One impression table ready for every model: static codes, dense numbers, the target ad, and tokens of its history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from habitus.apps.ctr.spec import FeatureSpec
from habitus.data.history import History, last_runs

TOKEN_FIELDS = ("cate", "brand", "btag", "gap", "hour", "run", "repeats")
N_GAPS, N_HOURS, N_RUNS, N_REPEATS = 32, 12, 8, 16
GAPS_PER_DOUBLING = 1.25  # 32 buckets then reach 1.2 years


@dataclass(frozen=True)
class Examples:
    """Impressions by (user, time), n rows. All arrays are free of NaN; `rows` gives a part of them.

    `user` int32 number of the user; `time` int64 seconds since 1970; `day` int32 local day since 1970; `label` int8;
    `static` int32 [n, S] codes (0: unseen or missing) of `spec.static_names`, below `spec.static_sizes`;
    `dense` float32 [n, N], clipped and standardised, of `spec.dense_names`; `target` int32 [n, 2] category and brand in
    the vocabulary of the history; `truth` float64 [n], the known probability of a world, or None; `has_stats` bool [n]
    is false where target statistics hold nothing but the prior (first day): drop these rows from training with stats.
    `source` int64 [n] is the row in the raw file; `offset` float32 [n], log odds that a model adds to, or None.
    """

    user: np.ndarray
    time: np.ndarray
    day: np.ndarray
    label: np.ndarray
    static: np.ndarray
    dense: np.ndarray
    target: np.ndarray
    history: History
    truth: np.ndarray | None
    spec: FeatureSpec
    has_stats: np.ndarray
    source: np.ndarray
    offset: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, index: np.ndarray | slice) -> Examples:
        """Keep some rows: positions, a mask or a slice. The log is shared, not copied."""
        index = np.arange(len(self))[index]
        names = ("user", "time", "day", "label", "static", "dense", "target", "has_stats", "source")
        parts = {name: getattr(self, name)[index] for name in names}
        for name in ("truth", "offset"):
            values = getattr(self, name)
            parts[name] = None if values is None else values[index]
        return replace(self, **parts, history=self.history.of(index))

    def dense_columns(self, names: Sequence[str]) -> np.ndarray:
        """Give the columns of these names, float32 [n, len(names)]."""
        at = {name: i for i, name in enumerate(self.spec.dense_names)}
        return self.dense[:, [at[name] for name in names]]


def tokens(
    examples: Examples, rows: np.ndarray, *, n_tokens: int, collapse: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the last `n_tokens` (T) tokens before each of B impressions, oldest first, padded in front.

    Returns codes int64 [B, T, 7] (`TOKEN_FIELDS`: category, brand, kind, gap to the impression in 32 log buckets, hour
    slot of the day in 12, log2 run length in 8, earlier events of the category in 16), is_pad bool [B, T], and the gap
    in seconds float32 [B, T] from the last event of the token to the impression. Padding has code 0 everywhere.
    With `collapse` a token is a run, of which only events before the impression count; without it, one event.
    """
    rows = np.asarray(rows, np.int64)
    history, log, spec = examples.history, examples.history.log, examples.spec
    first, last, is_pad = last_runs(history.of(rows), n_tokens, collapse=collapse)
    if not log.n_events:
        nothing = np.zeros((*is_pad.shape, len(TOKEN_FIELDS)), np.int64)
        return nothing, is_pad, np.zeros(is_pad.shape, np.float32)
    since = np.maximum(examples.time[rows][:, None] - log.time[last], 1)
    gap = np.where(is_pad, 0, since).astype(np.float32)
    local = log.time[last].astype(np.int64) + spec.utc_offset
    codes = np.stack(
        [
            spec.code_cate(log.cate[first]),
            spec.code_brand(log.brand[first]),
            log.kind[first],
            gap_bucket(since),
            local % 86_400 // (86_400 // N_HOURS),
            np.minimum(np.log2(last - first + 1), N_RUNS - 1),
            repeat_bucket(log.repeats[first]),
        ],
        axis=-1,
    ).astype(np.int64)
    codes[is_pad] = 0
    return codes, is_pad, gap


def gap_bucket(seconds: np.ndarray) -> np.ndarray:
    """Put seconds >= 1 into 32 buckets, 1.25 per doubling.

    >>> gap_bucket(np.array([1, 2, 3600, 2_000_000])).tolist()
    [0, 1, 14, 26]
    """
    return np.minimum(np.log2(seconds) * GAPS_PER_DOUBLING, N_GAPS - 1).astype(np.int64)


def repeat_bucket(repeats: np.ndarray) -> np.ndarray:
    """Put counts 0 .. 255 into 16 buckets, two per doubling of 1 + count.

    >>> repeat_bucket(np.array([0, 1, 3, 10, 255])).tolist()
    [0, 2, 4, 6, 15]
    """
    return np.minimum(2 * np.log2(1.0 + repeats), N_REPEATS - 1).astype(np.int64)
