"""What a run of whole lives left in metrics.json: interests, anchors, and what its vectors were probed for."""

from __future__ import annotations

from datetime import date

from pydantic import BaseModel

from habitus.tasks.report.part import FROZEN, Number


class _Part(BaseModel):
    model_config = FROZEN


class Anchor(_Part):
    """One aspect of the interests: its share of all mass, its weightiest interests, and the anchor most like it."""

    share: Number = None
    interests: list[str] = []
    twin: int | None = None
    likeness: Number = None


class Lives(_Part):
    """A fit of whole lives; `width` is that of the flat vector, `n_too_short` users were not trained on."""

    until: date | None = None
    block: str | None = None
    scales: str | None = None
    way: str | None = None
    n_interests: int | None = None
    share_of_0: Number = None
    width: int | None = None
    n_trained: int | None = None
    n_too_short: int | None = None
    anchors: list[Anchor] = []
    alarms: list[str] = []


class Probed(_Part):
    """One label read from one set of numbers by one head: AUC and interval; `gain` is the difference to `against`."""

    label: str
    features: str
    head: str
    auc: Number = None
    low: Number = None
    high: Number = None
    n: int | None = None
    positive: int | None = None
    gain: Number = None
    gain_low: Number = None
    gain_high: Number = None


class Probe(_Part):
    """What `probe RUN` measured last."""

    verdict: str = ""
    against: str | None = None
    as_of: date | None = None
    rows: list[Probed] = []
