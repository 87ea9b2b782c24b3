"""The gate's models: they learn planted rules, keep to their functional, and come back from disk the same."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from habitus.core.errors import ArtifactError, ConfigError, FingerprintError, TargetError, TrainingError
from habitus.core.seeds import generator
from habitus.metrics.classification import auc, log_loss
from habitus.metrics.regression import coverage
from habitus.models import base_rate, boosted_trees, recency_frequency
from habitus.models.boosted_trees import Labels, TreeConfig
from habitus.tokens.aggregates import Aggregates

QUICK = TreeConfig(sizes=((7, 20), (3, 20)), learning_rate=0.1, max_rounds=60, patience=10, column_share=1.0)
NAMES = ("*.recency", "*.days.all", "group", "noise")


def table(n: int, part: str) -> Aggregates:
    """Recency, frequency, a category whose codes 1 and 4 matter, and noise with gaps."""
    rng = generator(8, part)
    value = np.stack([rng.integers(0, 60, n), rng.integers(1, 9, n), rng.integers(0, 6, n), rng.normal(size=n)], axis=1)
    value[rng.uniform(size=n) < 0.1, 3] = np.nan
    flags = np.zeros(4, bool)
    return Aggregates(NAMES, value.astype(np.float32), flags, np.array([False, False, True, False]))


def probability(found: Aggregates) -> np.ndarray:
    recency, frequency, group, _ = found.value.T
    return 1 / (1 + np.exp(0.08 * recency - 0.3 * frequency - 2.0 * np.isin(group, (1, 4)) + 1))


def outcome(found: Aggregates, part: str) -> np.ndarray:
    return (generator(8, part, "y").uniform(size=len(found)) < probability(found)).astype(float)


def amount(found: Aggregates, part: str) -> np.ndarray:
    """Zero-inflated and heavy-tailed, with whole means of 8 x frequency."""
    spend = generator(8, part, "spend").lognormal(-0.5, 1.0, len(found)) * 8 * found.value[:, 1]
    return outcome(found, part) * spend


PARTS = {part: table(n, part) for part, n in {"train": 3000, "gap": 500, "valid": 1500, "test": 3000}.items()}


@pytest.fixture(scope="module")
def binned():
    return boosted_trees.bin_tables(PARTS["train"], PARTS["valid"], PARTS["gap"])


def labels(measure=outcome) -> Labels:
    return Labels(*(measure(PARTS[part], part) for part in ("train", "valid", "gap")))


def test_base_rate_is_the_mean_and_round_trips():
    model = base_rate.fit(np.array([0.0, 3.0, 6.0]))
    assert base_rate.predict(model, 2).tolist() == [3, 3]
    assert base_rate.from_json(json.loads(json.dumps(base_rate.to_json(model)))) == model
    for bad in (np.zeros(0), np.array([np.nan])):
        with pytest.raises(TrainingError):
            base_rate.fit(bad)
    with pytest.raises(ArtifactError):
        base_rate.from_json({"rate": 1})


def test_recency_frequency_by_hand():
    recency = np.array([1.0, 1.0, 1.0, 50.0, 50.0, np.nan])
    frequency = np.array([2.0, 2.0, 9.0, 2.0, 2.0, 0.0])
    y = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    model = recency_frequency.fit(recency, frequency, y, prior_rows=2.0)
    mean = y.mean()
    wanted = [(1 + 2 * mean) / 4, (1 + 2 * mean) / 3, (0 + 2 * mean) / 4, (1 + 2 * mean) / 3, mean]
    asked = np.array([[1, 2], [1, 9], [50, 2], [np.nan, 0], [50, 9]])
    assert recency_frequency.predict(model, *asked.T) == pytest.approx(np.array(wanted))
    again = recency_frequency.from_json(json.loads(json.dumps(recency_frequency.to_json(model))))
    assert (recency_frequency.predict(again, *asked.T) == recency_frequency.predict(model, *asked.T)).all()
    # values beyond any seen in training fall into the outer bins
    assert recency_frequency.predict(model, np.array([900.0]), np.array([900.0]))[0] == pytest.approx(mean)


def test_recency_frequency_beats_the_base_rate_and_trees_beat_both(binned):
    y = outcome(PARTS["test"], "test")
    recency, frequency = recency_frequency.recency_and_frequency(PARTS["train"], ["purchase"])  # no own columns: any
    rf = recency_frequency.fit(recency, frequency, labels().train)
    by_table = recency_frequency.predict(rf, *recency_frequency.recency_and_frequency(PARTS["test"]))
    by_trees = boosted_trees.predict(boosted_trees.fit(binned, labels(), "binary", QUICK), PARTS["test"])
    by_rate = base_rate.predict(base_rate.fit(labels().train), len(y))
    assert log_loss(y, by_trees) < log_loss(y, by_table) - 0.02 < log_loss(y, by_rate) - 0.05
    assert auc(y, by_trees) > auc(y, probability(PARTS["test"])) - 0.02


def test_recency_frequency_needs_its_columns():
    with pytest.raises(ConfigError, match="recency"):
        recency_frequency.recency_and_frequency(replace(PARTS["test"], names=("a", "b", "c", "d")))
    with pytest.raises(ConfigError, match="3"):
        recency_frequency.fit(np.zeros(3), np.zeros(3), np.zeros(2))
    with pytest.raises(TrainingError):
        recency_frequency.fit(np.zeros(0), np.zeros(0), np.zeros(0))


def test_every_loss_keeps_to_its_functional(binned):
    y = amount(PARTS["test"], "test")
    fitted = {
        loss: boosted_trees.predict(boosted_trees.fit(binned, labels(amount), loss, QUICK), PARTS["test"])
        for loss in ("log", "tweedie", "poisson", "median", "mape")
    }
    upper = boosted_trees.fit(binned, labels(amount), "quantile", QUICK, level=0.9)
    for loss in ("tweedie", "poisson"):
        assert fitted[loss].sum() == pytest.approx(y.sum(), rel=0.1)
        assert fitted[loss].min() >= 0
    assert fitted["median"].sum() < fitted["log"].sum() < 0.7 * y.sum()
    assert np.abs(y - fitted["median"]).mean() < np.abs(y - fitted["tweedie"]).mean() - 1
    assert coverage(y, np.full(y.size, -1.0), boosted_trees.predict(upper, PARTS["test"])) == pytest.approx(
        0.9, abs=0.03
    )
    some = y > 0
    relative = {loss: np.mean(np.abs(y - p)[some] / y[some]) for loss, p in fitted.items()}
    assert min(relative, key=relative.__getitem__) == "mape"


def test_same_seed_same_trees_whatever_was_fitted_between(binned):
    first = boosted_trees.fit(binned, labels(), "binary", QUICK)
    boosted_trees.fit(binned, labels(amount), "mape", QUICK)
    again = boosted_trees.fit(binned, labels(), "binary", QUICK.model_copy(update={"n_threads": 1}))
    fresh = boosted_trees.bin_tables(PARTS["train"], PARTS["valid"], PARTS["gap"])
    assert first == again == boosted_trees.fit(fresh, labels(), "binary", QUICK)
    assert len(first.texts) == 2
    assert first.texts[0] != first.texts[1]
    other = boosted_trees.fit(binned, labels(), "binary", QUICK.model_copy(update={"seed": 1}))
    assert other.texts != first.texts


def test_validation_chooses_and_a_narrowed_config_keeps_the_size(binned):
    found = boosted_trees.fit(binned, labels(), "binary", QUICK)
    configs = [QUICK.model_copy(update={"sizes": (size,)}) for size in QUICK.sizes]
    alone = [boosted_trees.fit(binned, labels(), "binary", config) for config in configs]
    best = min(alone, key=lambda model: model.valid_loss)
    assert (found.size, found.n_rounds, found.texts) == (best.size, best.n_rounds, best.texts)
    assert boosted_trees.narrowed(QUICK, found).sizes == (found.size,)


def test_test_labels_and_gap_do_not_reach_the_choice(binned):
    mixed = replace(labels(), gap=1 - labels().gap)
    one, other = (boosted_trees.fit(binned, y, "binary", QUICK) for y in (labels(), mixed))
    assert (one.size, one.n_rounds, one.valid_loss) == (other.size, other.n_rounds, other.valid_loss)
    assert one.texts != other.texts  # but the refit sees the gap


def test_saved_as_text_and_read_back(tmp_path, binned):
    model = boosted_trees.fit(binned, labels(amount), "log", QUICK)
    boosted_trees.save(model, tmp_path / "trees")
    assert sorted(file.name for file in (tmp_path / "trees").iterdir()) == ["trees-0.txt", "trees-1.txt", "trees.json"]
    again = boosted_trees.load(tmp_path / "trees")
    assert again == model
    same = boosted_trees.predict(again, PARTS["test"]) == boosted_trees.predict(model, PARTS["test"])
    assert same.all()
    (tmp_path / "trees" / "trees-1.txt").unlink()
    with pytest.raises(ArtifactError, match="trees-1"):
        boosted_trees.load(tmp_path / "trees")


def test_rows_in_any_number_and_order(binned):
    model = boosted_trees.fit(binned, labels(), "binary", QUICK)
    whole = boosted_trees.predict(model, PARTS["test"])
    order = generator(0, "order").permutation(whole.size)
    shuffled = replace(PARTS["test"], value=PARTS["test"].value[order])
    assert (boosted_trees.predict(model, shuffled) == whole[order]).all()
    assert boosted_trees.predict(model, replace(shuffled, value=shuffled.value[:1]))[0] == whole[order[0]]
    assert boosted_trees.predict(model, replace(shuffled, value=shuffled.value[:0])).shape == (0,)


def test_bad_input_is_named(binned):
    model = boosted_trees.fit(binned, labels(), "binary", QUICK)
    with pytest.raises(FingerprintError, match="group"):
        boosted_trees.predict(model, replace(PARTS["test"], names=("*.recency", "*.days.all", "other", "noise")))
    with pytest.raises(TargetError, match="0 of 3000 positive"):
        boosted_trees.fit(binned, Labels(np.zeros(3000), np.zeros(1500), np.zeros(500)), "binary", QUICK)
    with pytest.raises(ConfigError, match="2999"):
        boosted_trees.fit(binned, replace(labels(), train=labels().train[1:]), "binary", QUICK)
    refunds = replace(labels(amount), valid=-labels(amount).valid)
    with pytest.raises(TargetError, match="0 or more"):
        boosted_trees.fit(binned, refunds, "tweedie", QUICK)
