"""Numbers and sentences: units, sensible digits, plain English for targets and metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from habitus.core.errors import TargetError
from habitus.data.targets import Target as Declared
from habitus.tasks.report.record import Estimate, Target

MINUS, SPACE, DASH = "\u2212", "\u202f", "\u2013"
UNKNOWN = "\u2014"


@dataclass(frozen=True)
class Metric:
    """How a metric is called, which way is better (+1 higher, -1 lower, 0 neither), and what it means."""

    title: str
    better: int
    meaning: str
    in_units: bool = False


METRICS = {
    "auc": Metric(
        "AUC",
        +1,
        "the chance that a user who did it was ranked above one who did not. 0.5 is a coin toss, 1 is perfect.",
    ),
    "average_precision": Metric(
        "average precision",
        +1,
        "how pure the top of the ranking is. A random ranking scores the rate of the target, a perfect one 1.",
    ),
    "log_loss": Metric(
        "log loss", -1, "the penalty for confident wrong chances. Lower is better; compare with the base rate."
    ),
    "brier": Metric("Brier score", -1, "the mean squared error of the chances. Lower is better."),
    "ece": Metric(
        "ECE",
        -1,
        "expected calibration error: how far stated chances are from observed shares, on average. "
        "0.02 is 2 in 100. Few rows bias it upwards.",
    ),
    "wape": Metric(
        "WAPE",
        -1,
        "the sum of absolute errors over users, relative to the sum of what happened. Forecasting 0 for all scores 1.",
    ),
    "mae": Metric("MAE", -1, "the mean absolute error per user.", in_units=True),
    "rmse": Metric("RMSE", -1, "the root of the mean squared error per user; large misses dominate it.", in_units=True),
    "mape_nonzero": Metric(
        "MAPE (non-zero)", -1, "the mean error relative to the outcome, over users whose outcome is not zero."
    ),
    "smape": Metric("sMAPE", -1, "the error relative to forecast plus outcome. Lower is better."),
    "spearman": Metric(
        "Spearman", +1, "the rank correlation of forecast and outcome over users. 1 is perfect, 0 is none."
    ),
    "gini": Metric("Gini", +1, "how well users are ordered by amount. 1 is perfect, 0 is random."),
    "pinball": Metric("pinball loss", -1, "the loss of the quantiles. Lower is better.", in_units=True),
    "total_ratio": Metric("total ratio", 0, "forecast total over actual total. 1 is right."),
    "coverage_80": Metric(
        "80 % coverage", 0, "the share of users whose outcome fell in the 80 % range. 0.80 is right."
    ),
    "coverage_90": Metric(
        "90 % coverage", 0, "the share of users whose outcome fell in the 90 % range. 0.90 is right."
    ),
}
ALIASES = {"roc_auc": "auc", "ap": "average_precision", "pr_auc": "average_precision", "mape": "mape_nonzero"}
_PRIMARY = {"binary": ("auc", "log_loss"), "amount": ("wape", "mae", "spearman")}


def metric(name: str) -> Metric:
    """Describe a metric by its key; an unknown one keeps its name and has no better side.

    >>> metric("roc-auc").title, metric("surprise_index").title
    ('AUC', 'surprise index')
    """
    key = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return METRICS.get(ALIASES.get(key, key)) or Metric(name.replace("_", " "), 0, "")


def primary(target: Target, present: Sequence[str]) -> list[str]:
    """List the metrics that decide for a target, the first one first, out of those present.

    >>> primary(Target(name="buy", head="binary"), ["ece", "log_loss", "auc"])
    ['auc', 'log_loss']
    """
    wanted = [METRICS[key] for key in _PRIMARY["binary" if is_binary(target) else "amount"]]
    found = [name for want in wanted for name in present if metric(name) == want]
    return found or [name for name in present if metric(name).better][:1] or list(present[:1])


def is_binary(target: Target) -> bool:
    """Tell whether the answer is a chance rather than an amount."""
    return target.head == "binary" if target.head else bool(re.match(r"\s*(any|none)\b", target.define or ""))


# numbers -------------------------------------------------------------------------------------------------------------


def count(n: float | None) -> str:
    """Write a count exactly.

    >>> count(1304), count(None)
    ('1,304', '—')
    """
    return UNKNOWN if n is None else f"{round(n):,}".replace("-", MINUS)


def place(value: float | None, low: float | None, high: float | None, digits: int = 3) -> int:
    """Give the power of ten to round to: what the interval supports, else `digits` significant digits of the value.

    The half width keeps two digits when it starts below 3.55, else one (Particle Data Group, Review, section 5.3).

    >>> place(312345, 280000, 345000), place(0.7465, 0.732, 0.760), place(1304, None, None)
    (3, -3, 1)
    """
    if low is not None and high is not None and high > low:
        half = (high - low) / 2
        power = math.floor(math.log10(half))
        return power - 1 if half / 10.0**power < 3.55 else power
    return math.floor(math.log10(abs(value))) - digits + 1 if value else 0


def number(value: float | None, at: int, *, sign: bool = False) -> str:
    """Write a number rounded at the power of ten `at`, with k or M from ten thousand on.

    >>> number(312345, 3), number(0.7468, -3), number(-0.0021, -3, sign=True), number(1304, 1)
    ('312k', '0.747', '−0.002', '1,300')
    """
    if value is None:
        return UNKNOWN
    rounded = round(value / 10.0**at) * 10.0**at if at > -15 else value
    top = abs(rounded)
    power, suffix = (6, "M") if top >= 1e6 else (3, "k") if top >= 1e4 else (0, "")
    text = f"{top / 10**power:,.{max(0, power - at)}f}"
    is_zero = not any(c in "123456789" for c in text)
    front = MINUS if rounded < 0 and not is_zero else "+" if sign and not is_zero else ""
    return front + text + suffix


def quantity(value: float | None, unit: str | None = None, at: int | None = None, *, sign: bool = False) -> str:
    """Write a number with its unit: a currency code in front, any other unit behind.

    >>> quantity(312345, "GBP", 3), quantity(1304, "users"), quantity(None, "GBP")
    ('GBP 312k', '1,304 users', '—')
    """
    if value is None:
        return UNKNOWN
    if at is None:
        at = 0 if unit == "users" else place(value, None, None)
    text = number(value, at, sign=sign)
    if not unit:
        return text
    if is_currency(unit):
        front = text[0] if text[0] in (MINUS, "+") else ""
        return f"{front}{unit} {text.removeprefix(front)}"
    return f"{text} {unit}"


def is_currency(unit: str | None) -> bool:
    """Tell a currency code such as GBP from other units."""
    return bool(unit and re.fullmatch(r"[A-Z]{3}", unit))


def percent(share: float | None, digits: int = 2, *, sign: bool = False) -> str:
    r"""Write a share as a percentage of `digits` significant digits.

    >>> percent(0.3201), percent(0.0021), percent(-0.041, sign=True)
    ('32\u202f%', '0.21\u202f%', '−4.1\u202f%')
    """
    if share is None:
        return UNKNOWN
    at = min(0, math.floor(math.log10(abs(share) * 100)) - digits + 1) if share else 0
    return number(share * 100, at, sign=sign) + SPACE + "%"


def metric_place(estimate: Estimate, in_units: bool) -> int:
    """Digits for a metric: what its interval supports, at least one decimal and at most four for a pure number."""
    at = place(estimate.value, estimate.low, estimate.high)
    return at if in_units else min(-1, max(-4, at))


def gap_place(difference: Estimate, finest: int = -4) -> int:
    """Digits for a difference: what its interval supports, and enough to see on which side of 0 the interval ends.

    >>> gap_place(Estimate(value=0.009, low=0.0003, high=0.0177))
    -4
    """
    low, high = difference.low, difference.high
    at = max(finest, place(difference.value, low, high, 2))
    if low is None or high is None or low * high <= 0:
        return at
    nearest = min(abs(low), abs(high))
    return next((at - more for more in range(3) if round(nearest / 10.0 ** (at - more))), at)


def span(low: float | None, high: float | None, at: int, *, sign: bool = False) -> str:
    r"""Write an interval in brackets; one that is half known or has no width is not written.

    >>> span(0.7323, 0.7602, -3)
    '[0.732,\xa00.760]'
    """
    if low is None or high is None or low == high:
        return ""
    return f"[{number(low, at, sign=sign)},\u00a0{number(high, at, sign=sign)}]"


def spread(low: float | None, high: float | None, unit: str | None, at: int) -> str:
    """Write an interval as words, the unit once.

    >>> spread(280000, 345000, "GBP", 3)
    'GBP 280k to 345k'
    """
    if low is None or high is None:
        return ""
    words = f"{number(low, at)} to {number(high, at)}"
    return f"{unit} {words}" if is_currency(unit) else words


# dates and names -----------------------------------------------------------------------------------------------------


def day(value: date | None, *, year: bool = True) -> str:
    """Write a day as people read it.

    >>> day(date(2011, 11, 10)), day(date(2011, 11, 10), year=False)
    ('10 November 2011', '10 Nov')
    """
    if value is None:
        return UNKNOWN
    return f"{value.day} {value:%B %Y}" if year else f"{value.day} {value:%b}"


def days_between(first: date, last: date) -> str:
    """Write a range of days, the year once.

    >>> days_between(date(2011, 11, 11), date(2011, 12, 8)), days_between(date(2010, 12, 1), date(2011, 12, 8))
    ('11 Nov to 8 Dec 2011', '1 Dec 2010 to 8 Dec 2011')
    """
    year = "" if first.year == last.year else f" {first.year}"
    return f"{day(first, year=False)}{year} to {day(last, year=False)} {last.year}"


def sentence(text: str) -> str:
    """End a text with a full stop when it has no end of its own.

    >>> sentence("read it as a guess"), sentence("Really?")
    ('read it as a guess.', 'Really?')
    """
    return text if text.rstrip().endswith((".", "!", "?")) else text.rstrip() + "."


def short(text: str, n: int) -> str:
    """Cut a long name for a plot, with an ellipsis.

    >>> short("LightGBM with known events", 12)
    'LightGBM wi…'
    """
    return text if len(text) <= n else text[: n - 1].rstrip() + "…"


def joined(parts: Sequence[str], last: str = "and") -> str:
    """Join words as a sentence does.

    >>> joined(["buy", "cancel", "spend"])
    'buy, cancel and spend'
    """
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}" if len(parts) > 1 else "".join(parts)


def title(name: str) -> str:
    """Make a name meant for machines readable; any other stays as it is.

    >>> title("online_retail"), title("The Shop (2011)")
    ('Online Retail', 'The Shop (2011)')
    """
    return name.replace("_", " ").strip().title() if re.fullmatch(r"[a-z0-9_]+", name) else name


def plural(n: int, noun: str, nouns: str = "") -> str:
    """Write a count with its noun.

    >>> plural(1, "seed"), plural(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{count(n)} {noun if n == 1 else nouns or noun + 's'}"


def in_words(target: Target) -> str:
    """Say what a declared target asks of each user; a form that is not known is given as it stands.

    >>> in_words(Target(name="buy", define="any(purchase) in 28d"))
    'at least one purchase, yes or no'
    >>> in_words(Target(name="spend", define="sum(amount of purchase) in 28d", unit="GBP"))
    'sum of amount over all purchase events, in GBP'
    """
    try:
        declared = Declared.parse(target.define or "", name=target.name)
    except TargetError:
        return target.define or target.name
    kind = joined(declared.types, "or") or "event"
    unit = f", in {target.unit}" if target.unit else ""
    return {
        "any": f"at least one {kind}, yes or no",
        "none": f"not a single {kind}, yes or no",
        "count": f"number of {kind} events" if declared.types else "number of events",
        "days": f"number of days with at least one {kind}",
        "sum": f"sum of {declared.amount} over all {kind} events{unit}"
        if declared.types
        else f"sum of {declared.amount}{unit}",
        "sessions": f"number of baskets (sessions) with a {kind}",
    }.get(declared.aggregation, target.define or target.name)
