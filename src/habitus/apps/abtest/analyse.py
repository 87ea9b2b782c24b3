"""What came out, read as planned: the split first, then the primary metric, then the rest, then a verdict in words."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from habitus.apps.abtest.assign import CONTROL, TREATMENT
from habitus.apps.abtest.checks import Split, split_checks, srm
from habitus.apps.abtest.declare import Metric
from habitus.apps.abtest.estimate import Effect, correlation, effect, grouped_sums, holm
from habitus.apps.abtest.plan import Plan
from habitus.apps.abtest.sequential import running_interval
from habitus.apps.abtest.tables import Columns, Units, read_units
from habitus.core.atomic import plain
from habitus.core.errors import SourceError
from habitus.data.calendar import to_date, to_day

Outcome = Literal["ship", "stop", "no difference", "not yet", "invalid", "unclear"]


@dataclass(frozen=True)
class Found:
    """One estimate: levels, difference and lift with their intervals; p for one look (NaN when sequential)."""

    n_control: int
    n_treatment: int
    control: float
    treatment: float
    diff: float
    low: float
    high: float
    lift: float
    lift_low: float
    lift_high: float
    se: float
    p: float


@dataclass(frozen=True)
class Row:
    """A metric: plain and with CUPED where a past is known; `chosen` names the one that decides."""

    name: str
    role: str
    kind: str
    better: str
    plain: Found
    adjusted: Found | None
    chosen: str
    rho: float | None
    p_holm: float | None = None
    margin: float | None = None
    guard: str = ""  # held, broken, unproven
    excluded: dict[str, tuple[int, int]] = field(default_factory=dict)  # reason -> control, treatment

    @property
    def decisive(self) -> Found:
        """The estimate that decides."""
        return self.adjusted if self.chosen == "adjusted" and self.adjusted is not None else self.plain


@dataclass(frozen=True)
class Segment:
    """The primary metric inside one segment; `p_other` tests it against the rest, raised for the number of segments."""

    family: str
    name: str
    found: Found
    p_other: float


@dataclass(frozen=True)
class Analysis:
    """All that `analyse` found; `verdict` is one sentence, `reasons` say why."""

    name: str
    outcome: Outcome
    verdict: str
    reasons: list[str]
    method: str
    as_of: str
    rows: list[Row]
    segments: list[Segment]
    splits: list[Split]
    planned: list[tuple[str, str, str, bool]]  # what, planned, done, as planned
    counted: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Give plain values, NaN and endless ones as None."""
        return plain(asdict(self))

    @property
    def primary(self) -> Row:
        """The metric that decides."""
        return next(row for row in self.rows if row.role == "primary")


def analyse(
    plan: Plan, *, as_of: dt.date | None = None, tables: dict[str, Any] | None = None, units: Units | None = None
) -> Analysis:
    """Judge an experiment against its plan.

    Rows come from the files of the plan, or from `tables` (assignment, metrics, before: anything Arrow). `as_of` is the
    last complete day [default: the last in the data]. With `method = "fixed"` there is no verdict before the planned
    end and number of users; with "sequential" the interval holds at any look. Secondaries are corrected by Holm;
    guardrails are non-inferiority at alpha / 2 one-sided. Segments are for reading, never for the verdict.

    Errors: `SourceError` for tables that do not fit the plan.
    """
    until = None if as_of is None else to_day(as_of)
    found = units if units is not None else read_units(plan.experiment, as_of=until, tables=tables)
    experiment = plan.experiment
    splits = split_checks(found.arm, _families(found))
    rows = [_row(plan, metric, found) for metric in experiment.metrics]
    rows = _with_holm(rows)
    for row in rows:
        splits += [
            Split(f"excluded, {row.name}", why, c, t, float(srm(t, c)))
            for why, (c, t) in row.excluded.items()
            if why != "window still open"
        ]
    primary = next(row for row in rows if row.role == "primary")
    segments = _segments(plan, found)
    last = int(found.metrics[primary.name].day_known[found.metrics[primary.name].is_known].max(initial=0))
    day = to_date(last) if as_of is None else as_of
    planned = compared(plan, found, primary, last)
    outcome, verdict, reasons = judge(plan, primary, rows, splits, planned)
    return Analysis(
        experiment.name,
        outcome,
        verdict,
        reasons,
        experiment.method,
        str(day),
        rows,
        segments,
        splits,
        planned,
        found.counted,
    )


def estimates(columns: Columns, arm: np.ndarray) -> np.ndarray:
    """Give the sums of both arms [2, P, P] over the users of a metric that may be used."""
    return grouped_sums(columns.values, np.where(columns.is_known, arm, -1).astype(np.int64), 2)


def found_from(plan: Plan, one: Effect, *, is_primary: bool) -> Found:
    """Turn an effect into values; the primary metric of a sequential plan gets the interval valid at every look."""
    experiment, n = plan.experiment, np.minimum(one.n_control, one.n_treatment)
    if is_primary and experiment.method == "sequential":
        tau = {"alpha": experiment.alpha, "first_look": experiment.first_look}
        low, high = running_interval(one.diff, one.variance, n, tau2=plan.tau2, **tau)
        scale = one.control**2 if float(one.control) else np.array(1.0)
        lift_low, lift_high = running_interval(one.lift, one.lift_variance, n, tau2=plan.tau2 / float(scale), **tau)
        p = np.nan
    else:
        (low, high), (lift_low, lift_high) = one.interval(experiment.alpha), one.lift_interval(experiment.alpha)
        p = float(one.p_value)
    values = (one.control, one.treatment, one.diff, low, high, one.lift, lift_low, lift_high, np.sqrt(one.variance), p)
    return Found(int(one.n_control), int(one.n_treatment), *(float(value) for value in values))


def _row(plan: Plan, metric: Metric, units: Units) -> Row:
    columns = units.metrics[metric.name]
    total = estimates(columns, units.arm)
    if min(total[:, 0, 0]) < 2:
        raise SourceError(
            "at least 2 users per arm",
            f"{total[:, 0, 0].astype(int).tolist()}",
            where=metric.name,
            fix="wait until windows close, or check the tables",
        )
    is_primary = metric.role == "primary"
    plain = found_from(plan, effect(*total, is_ratio=columns.is_ratio), is_primary=is_primary)
    adjusted, rho = None, None
    if columns.has_past:
        adjusted = found_from(plan, effect(*total, is_ratio=columns.is_ratio, adjust=True), is_primary=is_primary)
        rho = float(correlation(*total, is_ratio=columns.is_ratio))
    chosen = "adjusted" if adjusted is not None and plan.experiment.adjust else "plain"
    decisive = adjusted if adjusted is not None and chosen == "adjusted" else plain
    guard = _guard(metric, decisive) if metric.role == "guardrail" else ""
    excluded = {
        why: (int((mask & (units.arm == CONTROL)).sum()), int((mask & (units.arm == TREATMENT)).sum()))
        for why, mask in columns.excluded.items()
    }
    return Row(
        metric.name,
        metric.role,
        metric.kind,
        metric.better,
        plain,
        adjusted,
        chosen,
        rho,
        None,
        metric.margin,
        guard,
        excluded,
    )


def _guard(metric: Metric, found: Found) -> str:
    worst, best = _harm(metric.sign, found)
    if worst > -(metric.margin or 0):
        return "held"
    return "broken" if best < -(metric.margin or 0) else "unproven"


def _harm(sign: int, found: Found) -> tuple[float, float]:
    """The interval of the lift in the good direction: its worst and its best end."""
    ends = (sign * found.lift_low, sign * found.lift_high)
    return min(ends), max(ends)


def _with_holm(rows: list[Row]) -> list[Row]:
    places = [i for i, row in enumerate(rows) if row.role == "secondary"]
    raised = holm(np.array([rows[i].decisive.p for i in places]))
    for i, p in zip(places, raised):
        rows[i] = Row(**{**vars(rows[i]), "p_holm": float(p)})
    return rows


def _families(units: Units) -> dict[str, tuple[np.ndarray, list[str]]]:
    days, codes = np.unique(units.day, return_inverse=True)
    families = {"day": (codes, [str(to_date(int(day))) for day in days])} if len(days) > 1 else {}
    return families | units.segments


def _segments(plan: Plan, units: Units) -> list[Segment]:
    """The primary metric by segment, plain, with a test of each against the rest of its family."""
    columns, found = units.metrics[plan.experiment.primary.name], []
    for family, (codes, names) in units.segments.items():
        group = np.where(columns.is_known, codes * 2 + units.arm, -1)
        total = grouped_sums(columns.values, group.astype(np.int64), 2 * len(names)).reshape(
            len(names), 2, *[columns.values.shape[1] + 1] * 2
        )
        whole = total.sum(axis=0)
        for place, name in enumerate(names):
            rest = whole - total[place]
            if total[place][:, 0, 0].min() < 2:
                continue
            one = effect(*total[place], is_ratio=columns.is_ratio)
            p = 1.0
            if rest[:, 0, 0].min() >= 2:
                other = effect(*rest, is_ratio=columns.is_ratio)
                p = _p_between(one, other)
            fixed = Found(int(one.n_control), int(one.n_treatment), *_values(one, plan.experiment.alpha))
            found.append(Segment(family, name, fixed, min(1.0, p * len(names))))
    return found


def _values(one: Effect, alpha: float) -> tuple[float, ...]:
    (low, high), (lift_low, lift_high) = one.interval(alpha), one.lift_interval(alpha)
    values = (one.control, one.treatment, one.diff, low, high, one.lift, lift_low, lift_high, np.sqrt(one.variance))
    return (*(float(value) for value in values), float(one.p_value))


def _p_between(one: Effect, other: Effect) -> float:
    from scipy.special import ndtr

    spread = float(np.sqrt(one.lift_variance + other.lift_variance))
    return float(2 * ndtr(-abs(float(one.lift - other.lift)) / spread)) if spread > 0 else 1.0


def compared(plan: Plan, units: Units, primary: Row, last: int) -> list[tuple[str, str, str, bool]]:
    """Set what was done beside what was planned."""
    experiment, sized = plan.experiment, plan.metrics[primary.name]
    chosen, days = primary.decisive, int(units.day.max() - units.day.min()) + 1
    n = min(chosen.n_control, chosen.n_treatment)
    first = to_date(int(units.day.min()))
    off = abs(primary.plain.control - sized.baseline) / abs(sized.baseline)
    se = float(np.sqrt(2 * sized.variance / max(n, 1)))
    rows = [
        ("users per arm, fewest", f"{plan.n_per_arm:,}", f"{n:,}", n >= plan.n_per_arm),
        (
            "first day",
            str(experiment.start),
            str(first),
            abs(to_day(first) - to_day(experiment.start)) <= experiment.ramp_days,
        ),
        (f"baseline of {primary.name}", f"{sized.baseline:.4g}", f"{primary.plain.control:.4g}", off < 0.1),
        ("standard error of the difference", f"{se:.3g} at this n", f"{chosen.se:.3g}", chosen.se < 1.15 * se),
        ("method", experiment.method, experiment.method, True),
    ]
    is_by_day = days > 1
    if plan.days is not None and is_by_day:
        rows.insert(1, ("days of entry", f"{plan.days}, whole weeks", f"{days}", days == plan.days))
    elif is_by_day:
        rows.insert(1, ("days of entry", "whole weeks", f"{days}", days % 7 == 0))
    if experiment.adjust and primary.rho is not None:
        rows.append(
            (
                "correlation with the time before",
                f"{sized.rho:.2f}",
                f"{primary.rho:.2f}",
                primary.rho > sized.rho - 0.1,
            )
        )
    if plan.end is not None and is_by_day:
        done = to_date(last + 1)
        rows.append(("windows closed by", str(plan.end), str(done), last + 1 >= to_day(plan.end) - plan.window - 7))
    return rows


def judge(
    plan: Plan, primary: Row, rows: list[Row], splits: list[Split], planned: list[tuple[str, str, str, bool]]
) -> tuple[Outcome, str, list[str]]:
    """Give outcome, verdict and reasons. A split that is off comes before everything."""
    off = [split for split in splits if split.is_off]
    if off:
        worst = min(off, key=lambda split: split.p)
        return (
            "invalid",
            "No verdict: users were not split as planned.",
            [
                f"{split.family} {split.place}: {split.n_control:,} control, {split.n_treatment:,} treatment, "
                f"p {split.p:.1g}"
                for split in sorted(off, key=lambda split: split.p)[:5]
            ]
            + [f"Find out why ({worst.family}) before reading any effect: some users of one arm are missing."],
        )
    found, experiment = primary.decisive, plan.experiment
    sign = 1 if primary.better == "up" else -1
    said = f"{primary.name} {found.lift:+.2%} [{found.lift_low:+.2%}, {found.lift_high:+.2%}]"
    reasons = [said + (", adjusted for the time before" if primary.chosen == "adjusted" else "")]
    reasons += [
        f"{row.name}: guardrail {row.guard} (margin {row.margin:.1%})" for row in rows if row.role == "guardrail"
    ]
    waiting, short = _waiting(plan, primary, planned)
    reasons += short
    is_fixed = experiment.method == "fixed"
    if is_fixed and waiting:
        advice = "To look earlier without harm, plan with method = 'sequential'."
        return "not yet", "Not yet: the plan reads this once, at its end.", [*reasons, *waiting, advice]
    worst, best = _harm(sign, found)
    broken = [row.name for row in rows if row.guard == "broken"]
    unproven = [row.name for row in rows if row.guard == "unproven"]
    if best < 0:
        return "stop", f"Stop: treatment makes {primary.name} worse.", reasons
    if broken:
        return "stop", f"Do not ship: {', '.join(broken)} got worse by more than its margin.", reasons
    if worst > 0 and not unproven:
        return "ship", f"Ship: treatment is better on {primary.name}, and every guardrail held.", reasons
    if worst > 0:
        return "unclear", f"Better on {primary.name}, but {', '.join(unproven)} is not shown to be safe.", reasons
    if not is_fixed and (waiting or not np.isfinite(worst)):
        return "not yet", "Go on: nothing is decided yet, and looking again does no harm.", reasons
    ruled = f"Gains above {best:.2%} and losses beyond {worst:.2%} are ruled out."
    return "no difference", f"No difference on {primary.name} was shown.", [*reasons, ruled]


def _waiting(plan: Plan, primary: Row, planned: list[tuple[str, str, str, bool]]) -> tuple[list[str], list[str]]:
    """Say what the planned end still waits for, and what fell short though it has come.

    With planned days their end decides, as fewer users then came than planned; without, the number of users does.
    """
    undone = {what: f"{what}: planned {goal}, found {done}" for what, goal, done, is_done in planned if not is_done}
    open_now = sum(primary.excluded.get("window still open", (0, 0)))
    users, entry = undone.get("users per arm, fewest"), undone.get("days of entry")
    waiting = [text for text in (entry, f"{open_now:,} windows are still open" if open_now else None) if text]
    is_by_day = plan.days is not None and any(what == "days of entry" for what, *_ in planned)
    if users and not is_by_day:
        waiting.append(users)
    return waiting, [users] if users and not waiting else []
