"""Day by day as it would have been: each day is scored by a model of the days whose labels were known by then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from habitus.apps.ctr.evaluate import probability
from habitus.apps.ctr.features import Features, make_examples
from habitus.apps.ctr.linear import LinearConfig
from habitus.apps.ctr.target_stats import has_known_labels
from habitus.apps.ctr.train import NetConfig, fit_model
from habitus.apps.ctr.trees import ClickTreesConfig
from habitus.core.errors import CutoffError
from habitus.data.impressions import Impressions


@dataclass(frozen=True)
class Scored:
    """Rows that were scored, in order of day: probability, label, user, day, and how many models were fitted."""

    p: np.ndarray
    label: np.ndarray
    user: np.ndarray
    day: np.ndarray
    n_fits: int


def prequential(
    shown: Impressions,
    settings: NetConfig | LinearConfig | ClickTreesConfig,
    *,
    features: Features = "+stats",
    seed: int = 0,
    fewest: int = 10,
) -> Scored:
    """Fit anew for each day with impressions, on earlier days whose labels have closed; score that day.

    Days before which fewer than `fewest` responses are known are left out. Nothing is held back to stop by: give
    settings with fixed rounds and epochs. Features and vocabularies are fitted anew each time too.

    Errors: `CutoffError` when no day can be scored.
    """
    parts, n_fits = [], 0
    first = int(shown.day.min())
    has_rates = has_known_labels(shown) if features in ("+stats", "+lurm") else np.ones(len(shown), bool)
    for day in np.unique(shown.day).tolist():
        until = day - shown.delay + 1  # a label of day d is known `delay` days later
        is_known = shown.day < until
        n_known = int(shown.label[is_known & has_rates].sum())
        if n_known < fewest:
            continue
        spans = {"train": (first, until), "valid": (first, until), "test": (day, day + 1)}
        made = make_examples(shown, features=features, days=spans)
        test = made["test"]
        p = probability(fit_model(settings, made["train"], made["valid"], seed=seed).logits(test))
        parts.append((p, test.label, test.user, test.day))
        n_fits += 1
    if not parts:
        raise CutoffError(f"days after {fewest} known responses", "none", where="prequential")
    p, label, user, days = (np.concatenate(column) for column in zip(*parts))
    return Scored(p, label, user, days, n_fits)
