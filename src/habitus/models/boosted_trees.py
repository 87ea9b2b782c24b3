"""Boosted trees on windowed aggregates: the strongest simple model, and the one to beat.

LightGBM (Ke et al. 2017), tuned lightly: a few sizes of tree, each stopped early on the pooled validation cut-offs, the
best one refitted on train + gap + validation with several seeds whose forecasts are averaged.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from habitus.core.atomic import new_folder
from habitus.core.config import Config
from habitus.core.errors import ArtifactError, ConfigError, FingerprintError, TargetError
from habitus.core.seeds import derive
from habitus.tokens.aggregates import Aggregates

if TYPE_CHECKING:
    import lightgbm

Loss = Literal["binary", "log", "tweedie", "poisson", "median", "mape", "quantile"]
FORMAT = 1
_OBJECTIVE = {"binary": "binary", "log": "l2", "median": "l1", "mape": "mape", "quantile": "quantile"}
_LOGGED = ("log", "median", "quantile")  # fitted on sign(y) log(1 + |y|)
_BASE = {
    "num_threads": 1,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
    "feature_pre_filter": False,  # the fewest rows in a leaf differ between fits on one binned matrix
}
_NEEDS_POSITIVE = ("tweedie", "poisson", "mape")


class TreeConfig(Config):
    """How hard the trees try. `sizes` are the pairs (leaves, fewest rows in a leaf) compared on validation."""

    sizes: tuple[tuple[int, int], ...] = ((31, 200), (15, 100), (7, 100))
    learning_rate: float = 0.05
    max_rounds: int = 1500
    patience: int = 50
    row_share: float = 0.7
    column_share: float = 0.3
    n_refits: int = 2
    seed: int = 0
    n_threads: int = 2


@dataclass(frozen=True)
class Binned:
    """Matrices of the same columns, binned once (bins from train alone) and shared by all losses and targets."""

    names: tuple[str, ...]
    train: lightgbm.Dataset
    valid: lightgbm.Dataset
    refit: lightgbm.Dataset  # train, gap, valid, in this order


@dataclass(frozen=True)
class Labels:
    """One target at the rows of the three parts; `gap` is empty where there is none."""

    train: np.ndarray
    valid: np.ndarray
    gap: np.ndarray


@dataclass(frozen=True)
class BoostedTrees:
    """Fitted trees as LightGBM's text, never as a pickle.

    Attributes
    ----------
    loss, level
        What was minimised; `level` of a quantile, else 0.5.
    texts
        One LightGBM text model per refit.
    names
        The columns they want, in order.
    size, n_rounds, valid_loss
        What validation chose: (leaves, rows in a leaf), rounds, and the loss there.
    """

    loss: Loss
    level: float
    texts: tuple[str, ...]
    names: tuple[str, ...]
    size: tuple[int, int]
    n_rounds: int
    valid_loss: float


def bin_tables(train: Aggregates, valid: Aggregates, gap: Aggregates | None = None) -> Binned:
    """Bin the tables of the parts once, for any number of targets.

    Errors: `FingerprintError` when the tables have different columns.
    """
    import lightgbm

    parts = [train, valid] if gap is None else [train, gap, valid]
    for part in parts:
        _check_names(part, train.names)
    categories = [int(j) for j in np.flatnonzero(train.is_category)]
    fixed = {"categorical_feature": categories, "params": _BASE, "free_raw_data": True}
    first = lightgbm.Dataset(train.value, label=np.zeros(len(train)), **fixed)
    others = [
        lightgbm.Dataset(value, label=np.zeros(len(value)), reference=first, **fixed)
        for value in (valid.value, np.concatenate([part.value for part in parts]))
    ]
    return Binned(train.names, *(dataset.construct() for dataset in (first, *others)))


def fit(binned: Binned, y: Labels, loss: Loss, config: TreeConfig | None = None, *, level: float = 0.5) -> BoostedTrees:
    """Choose size and rounds on validation, then refit on train + gap + validation.

    Parameters
    ----------
    loss
        What the forecast will be.
        `binary`: the probability. `log`: the mean of log(1 + y), taken back; a middle forecast, above the median of a
        mostly idle user and far below the mean of a heavy tail. `tweedie`, `poisson`: the mean, of amounts and of
        counts; best for RMSE and for totals. `median`: the median; best for MAE and WAPE, and 0 for every user who is
        more likely idle than not. `quantile`: the quantile `level`. `mape`: a low middle of the rows with y != 0; best
        for MAPE over them.
    y
        The target's value at the rows that were binned, original units.

    Errors: `TargetError` for a binary target without both outcomes, or negative amounts where the loss needs y >= 0;
    `ConfigError` when labels and rows differ in number.
    """
    config = config or TreeConfig()
    labels = [y.train, y.valid, np.concatenate([y.train, y.gap, y.valid])]
    _check_labels(binned, labels, loss)
    train, valid, refit = (
        _labelled(dataset, label, loss) for dataset, label in zip((binned.train, binned.valid, binned.refit), labels)
    )
    with ThreadPoolExecutor(config.n_threads) as pool:  # one thread a fit: threads inside a fit wait for each other
        parameters = [_parameters(config, size, loss, level) for size in config.sizes]
        trials = pool.map(lambda p: _trial(train, valid, p, config), parameters)
        valid_loss, n_rounds, size = min((*trial, size) for trial, size in zip(trials, config.sizes))
        seeds = [derive(config.seed, "refit", i) for i in range(config.n_refits)]
        texts = tuple(pool.map(lambda s: _refit(refit, _parameters(config, size, loss, level, s), n_rounds), seeds))
    return BoostedTrees(loss, level, texts, binned.names, size, n_rounds, float(valid_loss))


def predict(model: BoostedTrees, table: Aggregates) -> np.ndarray:
    """Forecast every row, float64 [n]: a probability for `binary`, else an amount in original units.

    Errors: `FingerprintError` when the columns are not those that were fitted.
    """
    import lightgbm

    _check_names(table, model.names)
    if not len(table):
        return np.zeros(0)
    boosters = (lightgbm.Booster(model_str=text) for text in model.texts)
    value = np.mean([np.asarray(booster.predict(table.value, num_threads=1)) for booster in boosters], axis=0)
    return np.sign(value) * np.expm1(np.abs(value)) if model.loss in _LOGGED else value


def narrowed(config: TreeConfig, model: BoostedTrees) -> TreeConfig:
    """Give a config that keeps the size of tree chosen for `model`: rounds alone are chosen again."""
    return config.model_copy(update={"sizes": (model.size,)})


def save(model: BoostedTrees, folder: str | Path) -> None:
    """Write `trees.json` and one LightGBM text file per refit, atomically. Errors: `DiskError`."""
    rest = {key: value for key, value in vars(model).items() if key != "texts"}
    with new_folder(folder, replace=True) as beside:
        for i, text in enumerate(model.texts):
            (beside / f"trees-{i}.txt").write_text(text, "utf-8")
        (beside / "trees.json").write_text(json.dumps({"format": FORMAT, "n_texts": len(model.texts), **rest}), "utf-8")


def load(folder: str | Path) -> BoostedTrees:
    """Read what `save` wrote. Errors: `ArtifactError`."""
    folder = Path(folder)
    try:
        values: dict[str, Any] = json.loads((folder / "trees.json").read_text("utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError("another format version")
        texts = tuple((folder / f"trees-{i}.txt").read_text("utf-8") for i in range(values.pop("n_texts")))
        values |= {"texts": texts, "names": tuple(values["names"]), "size": tuple(values["size"])}
        return BoostedTrees(**values)
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise ArtifactError("a folder of boosted trees", str(cause), where=str(folder)) from None


def _parameters(
    config: TreeConfig, size: tuple[int, int], loss: Loss, level: float, seed: int | None = None
) -> dict[str, Any]:
    return _BASE | {
        "objective": _OBJECTIVE.get(loss, loss),
        "alpha": level,
        "num_leaves": size[0],
        "min_data_in_leaf": size[1],
        "learning_rate": config.learning_rate,
        "bagging_fraction": config.row_share,
        "bagging_freq": 1,
        "feature_fraction": config.column_share,
        "seed": (config.seed if seed is None else seed) % 2**31,
    }


def _trial(
    train: lightgbm.Dataset, valid: lightgbm.Dataset, parameters: dict[str, Any], config: TreeConfig
) -> tuple[float, int]:
    """Grow until validation has not improved for `patience` rounds; give the loss there and the best round."""
    import lightgbm

    stop = lightgbm.early_stopping(config.patience, first_metric_only=True, verbose=False)
    booster = lightgbm.train(parameters, train, config.max_rounds, [valid], callbacks=[stop])
    return float(next(iter(booster.best_score["valid_0"].values()))), max(booster.best_iteration, 1)


def _refit(data: lightgbm.Dataset, parameters: dict[str, Any], n_rounds: int) -> str:
    import lightgbm

    return lightgbm.train(parameters, data, n_rounds).model_to_string()


def _labelled(dataset: lightgbm.Dataset, label: np.ndarray, loss: Loss) -> lightgbm.Dataset:
    """Put a target into a binned matrix; `mape` gives rows without an amount no weight."""
    value = np.sign(label) * np.log1p(np.abs(label)) if loss in _LOGGED else label
    dataset.set_label(value)
    # set_weight would keep earlier weights when all of the new ones are 1
    dataset.set_field("weight", (label != 0).astype(np.float32) if loss == "mape" else None)
    return dataset


def _check_names(table: Aggregates, names: tuple[str, ...]) -> None:
    if table.names != names:
        odd = sorted(set(table.names) ^ set(names))[:5]
        raise FingerprintError(
            f"the {len(names)} columns that the trees were fitted on",
            f"{len(table.names)} columns; these differ: {', '.join(odd) or 'the order'}",
            where="boosted trees",
            fix="build the table with the same AggregateSpec and calendar",
        )


def _check_labels(binned: Binned, labels: list[np.ndarray], loss: Loss) -> None:
    for dataset, label in zip((binned.train, binned.valid, binned.refit), labels):
        if dataset.num_data() != len(label):
            raise ConfigError(f"{dataset.num_data()} labels", f"{len(label)}", where="boosted trees")
    everything = labels[-1]
    if loss == "binary" and not 0 < labels[0].sum() < labels[0].size:
        n, size = int(labels[0].sum()), labels[0].size
        raise TargetError("both outcomes among the training rows", f"{n} of {size} positive", where="boosted trees")
    if loss in _NEEDS_POSITIVE and (everything < 0).any():
        row = int(np.argmax(everything < 0))
        raise TargetError(
            f"amounts of 0 or more for {loss!r}", f"{everything[row]:.4g} in row {row}", where="boosted trees",
            fix="make refunds a target of their own, or use 'median'",
        )  # fmt: skip
