"""Does the risk of an asset fit the class that a customer declared? Four classes, by volatility and category.

The steps of volatility are edges of the European risk indicator of funds (CESR/10-673: 5, 10 and 25 % a year). Which
class of customer may go how far is our choice, and no law.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from habitus.apps.advisor.market import View
from habitus.core.errors import ConfigError
from habitus.data.sources.far_trans_world import RISKS

Suitability = Literal["off", "warn", "filter"]
CLASSES = RISKS[:4]
STEPS = (0.05, 0.10, 0.25)  # volatility a year that Conservative, Income and Balanced bear at most
FLOOR = {"Stock": 2}  # a single stock asks for Balanced at least, however calm it was


def suitability_of(text: str) -> Suitability:
    """Read a mode. Errors: `ConfigError`."""
    for name in ("off", "warn", "filter"):
        if text == name:
            return name
    raise ConfigError("off, warn or filter", repr(text), where="--suitability")


def asset_class(view: View) -> np.ndarray:
    """Give the lowest class of customer that an asset fits, 0 (Conservative) to 3 (Aggressive): int [A].

    By the volatility of 126 price days up to the day. Unknown volatility (a young asset) counts as the highest.
    """
    volatility = view.facts["volatility126"]
    steps = np.where(np.isfinite(volatility), np.searchsorted(STEPS, volatility), len(STEPS))
    category = view.market.source.assets["category"].to_numpy()
    for name, least in FLOOR.items():
        steps = np.where(category == name, np.maximum(steps, least), steps)
    return steps


def declared_class(view: View, customers: np.ndarray) -> np.ndarray:
    """Give the class that customers declared by the day, 0 to 3; -1 where none is known or the questionnaire is of a
    later day: int [B]."""
    found = view.profile_codes("risk", RISKS)[customers].astype(np.int64)
    return np.where(found < len(CLASSES), found, -1)


def fitting(view: View, customers: np.ndarray) -> np.ndarray:
    """Give 1 where an asset fits the customer's class, 0 where it is riskier, NaN where no class is known: [B, A]."""
    declared = declared_class(view, customers)[:, None]
    return np.where(declared < 0, np.nan, asset_class(view)[None] <= declared).astype(np.float32)


def fitting_first(lists: np.ndarray, fits: np.ndarray) -> np.ndarray:
    """Move what does not fit out of lists [B, R] of assets, -1 in its place at the end; an unknown class keeps all."""
    at = np.maximum(lists, 0)
    keep = (lists >= 0) & (np.take_along_axis(fits, at, 1) != 0)
    order = np.argsort(~keep, axis=1, kind="stable")
    moved = np.take_along_axis(lists, order, 1)
    return np.where(np.take_along_axis(keep, order, 1), moved, -1)
