"""One way to fit and to score for every model of clicks: `fit(settings, train, valid) -> scorer`, `scorer.logits`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field

from habitus.apps.ctr.batches import ClickLoader, batch_of, shape_of
from habitus.apps.ctr.examples import Examples
from habitus.apps.ctr.linear import LinearConfig, LinearScorer, fit_linear
from habitus.apps.ctr.trees import ClickTreesConfig, fit_trees
from habitus.core.config import Config
from habitus.core.errors import TrainingError
from habitus.core.registry import MODELS, resolve

SCORED_AT_ONCE = 2048


class Scorer(Protocol):
    """What the report and the evaluation know of a model."""

    def logits(self, examples: Examples) -> np.ndarray:
        """Give log odds of a click, float64 [n]."""
        ...


class NetConfig(Config):
    """How a network is trained. `model` goes to the config of its class.

    The validation day is scored `parts` times per pass over the data, and training stops at the first score that is no
    better (`patience`), for a second pass over ids over-fits. `left_out` names static fields that are not read; rows
    of the first day are left out where the features hold target statistics. With `start` a linear model is fitted first
    and stays as it is: the network learns what to add to its log odds.

    >>> NetConfig(name="din").epochs
    3
    """

    name: Literal["ctr_mlp", "din", "time_bst"]
    model: dict[str, Any] = Field(default_factory=dict)
    batch_size: int = Field(1024, gt=0)
    lr: float = Field(1e-3, gt=0)
    epochs: int = Field(3, gt=0)
    parts: int = Field(2, gt=0)
    patience: int | None = Field(1, gt=0)
    clip: float = Field(1.0, ge=0)
    l2: float = Field(5e-6, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    keep_rate: float = Field(1.0, gt=0, le=1)
    collapse: bool = True
    left_out: tuple[str, ...] = ()
    by_row: int = Field(50_000, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    schedule: Literal["cosine", "constant"] = "cosine"
    averaging: Literal["none", "ema"] = "none"
    ema_decay: float = Field(0.999, gt=0, lt=1)
    start: LinearConfig | None = None


@dataclass(frozen=True)
class NetScorer:
    """A trained network with what it reads. `shift` corrects the log odds for dropped negatives; it adds to `start`."""

    model: Any
    config: NetConfig
    shift: float
    history: tuple[dict[str, Any], ...] = ()
    start: LinearScorer | None = None

    def logits(self, examples: Examples) -> np.ndarray:
        """Give log odds of a click, float64 [n]; the company of a row changes nothing beyond rounding."""
        found = [np.zeros(0)]
        options = {"collapse": self.config.collapse, "left_out": self.config.left_out}
        self.model.eval()
        examples = started(examples, self.start)
        with torch.inference_mode():
            for start in range(0, len(examples), SCORED_AT_ONCE):
                rows = np.arange(start, min(start + SCORED_AT_ONCE, len(examples)))
                batch = batch_of(examples, rows, n_tokens=self.model.config.tokens, **options)
                found.append(self.model(batch).double().numpy() + self.shift)
        return np.concatenate(found)

    @property
    def n_parameters(self) -> int:
        """Weights, tables and those of the start included."""
        own = sum(weight.numel() for weight in self.model.parameters())
        return own + (0 if self.start is None else self.start.n_parameters)


def fit_net(
    config: NetConfig, train: Examples, valid: Examples, *, seed: int = 0, folder: str | Path | None = None
) -> NetScorer:
    """Train a network on `train`, stop by `valid`; `folder` keeps checkpoints, without it they are thrown away.

    Errors: `TrainingError` without both labels in train; `ConfigError` for unknown keys of the model.
    """
    from habitus.training.fit import TrainingConfig, fit
    from habitus.training.objectives.click import Click

    train = usable(train)
    start = None if config.start is None else fit_linear(config.start, train, seed=seed)
    train, valid = started(train, start), started(valid, start)
    model_class = resolve(MODELS, config.name, kind="model")
    chosen = model_class.Config.parse(config.model, where=config.name)
    model = model_class(chosen, shape_of(train, config.left_out), seed=seed)
    options: Any = {"n_tokens": chosen.tokens, "collapse": config.collapse, "left_out": config.left_out}
    loader = ClickLoader(
        train, batch_size=config.batch_size, n_parts=config.parts, keep_rate=config.keep_rate, seed=seed, **options
    )
    judge = ClickLoader(valid, batch_size=SCORED_AT_ONCE, is_shuffled=False, **options)
    rate = float(train.label.mean())
    begin = 0.0 if start else np.log(rate / (1 - rate))  # begin at the rate of clicks
    model.tower.layers[-1].bias.data.fill_(begin - np.log(config.keep_rate))
    objective = Click(rate, l2=config.l2, keep_rate=config.keep_rate)
    same = ("lr", "weight_decay", "clip", "patience", "precision", "schedule", "by_row", "averaging", "ema_decay")
    settings = TrainingConfig.parse(
        {name: getattr(config, name) for name in same}
        | {"epochs": config.epochs * config.parts, "checkpoint_every": 0, "loggers": ("csv",), "log_every": 50}
        | {"seed": seed}
    )
    with tempfile.TemporaryDirectory() as scratch:
        fitted = fit(model, objective, loader, judge, settings, folder or scratch)
    return NetScorer(model.eval(), config, objective.shift, tuple(fitted.history), start)


def fit_model(
    config: NetConfig | LinearConfig | ClickTreesConfig, train: Examples, valid: Examples, *, seed: int = 0
) -> Scorer:
    """Fit any of the five models: the settings say which."""
    if isinstance(config, LinearConfig):
        return fit_linear(config, usable(train), seed=seed)
    if isinstance(config, ClickTreesConfig):
        return fit_trees(config, usable(train), valid, seed=seed)
    return fit_net(config, train, valid, seed=seed)


def started(examples: Examples, start: LinearScorer | None) -> Examples:
    """Let the rows bring the log odds of a linear model. Without one they stay as they are."""
    return examples if start is None else replace(examples, offset=start.logits(examples).astype(np.float32))


def usable(train: Examples) -> Examples:
    """Leave out rows whose target statistics hold only the prior. Errors: `TrainingError` without both labels."""
    if train.spec.features in ("+stats", "+lurm"):
        train = train.rows(train.has_stats)
    n_clicks = int(train.label.sum())
    if n_clicks in (0, len(train)):
        raise TrainingError("both clicks and impressions without one", f"{n_clicks} clicks of {len(train)} rows")
    return train
