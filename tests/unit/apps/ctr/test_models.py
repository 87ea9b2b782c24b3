"""Every model of clicks is fitted, scored, saved and asked for one row through the same interface."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from habitus.apps.ctr.artifacts import ClickModel, load_click_model, save_click_model
from habitus.apps.ctr.batches import ClickLoader, batch_of
from habitus.apps.ctr.evaluate import fit_map
from habitus.apps.ctr.examples import Examples
from habitus.apps.ctr.features import dense_columns, encode
from habitus.apps.ctr.linear import LinearConfig
from habitus.apps.ctr.train import NetConfig, Scorer, fit_model, usable
from habitus.apps.ctr.trees import ClickTreesConfig, CodeRates
from habitus.core.errors import ArtifactError, FingerprintError, TrainingError
from habitus.data.history import BehaviourLog
from habitus.data.impressions import Impressions
from habitus.metrics.clustered import expected_auc

SHORT: dict[str, Any] = {"model": {"size": "tiny"}, "batch_size": 128, "lr": 1e-2, "epochs": 2, "patience": None}
START: dict[str, Any] = {"bits": 12, "c": 0.1, "has_dense": False, "left_out": ["user"]}
CONFIGS: dict[str, Any] = {
    "linear": LinearConfig.parse({"bits": 12, "n_history": 10, "left_out": ["user"]}),
    "trees": ClickTreesConfig.parse({"leaves": 7, "rounds": 30, "min_data": 20, "left_out": ["user"]}),
    **{name: NetConfig.parse(SHORT | {"name": name, "left_out": ["user"]}) for name in ("ctr_mlp", "din", "time_bst")},
    "trees, started": ClickTreesConfig.parse(
        {"leaves": 7, "rounds": 30, "min_data": 20, "left_out": ["user"], "crossed": [["pid", "cate"]], "start": START}
    ),
    "ctr_mlp, started": NetConfig.parse(
        SHORT | {"name": "ctr_mlp", "left_out": ["user"], "start": START, "averaging": "ema", "ema_decay": 0.9}
        | {"model": {"size": "tiny", "most_codes": 20, "has_wide": False}}
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def fitted(parts: dict[str, Examples], matched: dict[str, Examples]) -> dict[str, Scorer]:
    found = {}
    for name, config in CONFIGS.items():
        used = used_by(name, parts, matched)
        found[name] = fit_model(config, used["train"], used["valid"], seed=0)
    return found


def used_by(name: str, parts: dict[str, Examples], matched: dict[str, Examples]) -> dict[str, Examples]:
    return matched if name.startswith("trees") else parts


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_learns_and_scores_every_row(name: str, fitted: Any, parts: Any, matched: Any):
    test = used_by(name, parts, matched)["test"]
    logit = fitted[name].logits(test)
    assert logit.shape == (len(test),)
    assert np.isfinite(logit).all()
    assert test.truth is not None
    assert expected_auc(test.truth, logit) > 0.53  # a score of noise has s.d. .012 here
    assert fitted[name].n_parameters > 10


@pytest.mark.parametrize("name", CONFIGS)
def test_the_company_of_a_row_changes_nothing(name: str, fitted: Any, parts: Any, matched: Any):
    test = used_by(name, parts, matched)["test"]
    rows = np.array([5, 3, 40, 7])
    np.testing.assert_allclose(fitted[name].logits(test.rows(rows)), fitted[name].logits(test)[rows], atol=1e-6)
    assert fitted[name].logits(test.rows(np.zeros(0, np.int64))).shape == (0,)


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_and_loaded_and_by_request_it_gives_the_same(
    name: str, fitted: Any, parts: Any, matched: Any, shown: Impressions, tmp_path: Path
):
    """The request path: an impression with nothing but the log of its own user."""
    used = used_by(name, parts, matched)
    calibrator = fit_map("platt", used["valid"].label, fitted[name].logits(used["valid"]))
    save_click_model(tmp_path / "m", ClickModel(fitted[name], used["train"].spec, calibrator))
    model = load_click_model(tmp_path / "m")
    batch = ClickModel(fitted[name], used["train"].spec, calibrator).probabilities(used["test"])
    np.testing.assert_allclose(model.probabilities(used["test"]), batch, atol=1e-9)
    for row in (0, 11, 57):
        asked = request(shown, int(used["test"].source[row]))
        dense, names = dense_columns(asked, model.spec.features)
        alone = model.probabilities(encode(asked, model.spec, dense, names))
        np.testing.assert_allclose(alone, batch[row : row + 1], atol=1e-6)


def request(shown: Impressions, source: int) -> Impressions:
    """One impression and the log of its user alone, as a service has them."""
    one = shown.rows(np.array([int(np.flatnonzero(shown.source == source)[0])]))
    log, user = shown.log, int(one.user[0])
    own = slice(log.offsets[user], log.offsets[user + 1])
    alone = BehaviourLog.build(
        np.zeros(own.stop - own.start), log.time[own], log.kind[own], log.cate[own], log.brand[own],
        n_users=1, kinds=log.kinds,
    )  # fmt: skip
    return replace(one, user=np.zeros(1, np.int32), log=alone, truth=None)


def test_strangers_score(fitted: Any, parts: Any, matched: Any):
    """No history, an ad never seen, no profile: every model answers."""
    for name, scorer in fitted.items():
        one = used_by(name, parts, matched)["test"].rows(slice(0, 3))
        history = replace(one.history, hist_end=one.history.user_start)
        blank = replace(one, static=np.zeros_like(one.static), target=np.zeros_like(one.target), history=history)
        assert np.isfinite(scorer.logits(blank)).all(), name


@pytest.mark.parametrize("name", ["trees, started", "ctr_mlp, started"])
def test_a_started_model_adds_to_the_linear_one(name: str, fitted: Any, parts: Any, matched: Any):
    test, scorer = used_by(name, parts, matched)["test"], fitted[name]
    assert scorer.start is not None
    alone = replace(scorer, start=None).logits(test)
    assert np.ptp(alone) > 0.01
    np.testing.assert_allclose(scorer.logits(test), alone + scorer.start.logits(test), atol=1e-5)


def test_wide_fields_are_not_read_by_the_layers(fitted: Any, parts: Any):
    """40 ads are more codes than `most_codes`: their vectors get no gradient and reach no logit."""
    sizes = parts["train"].spec.static_sizes
    kept = [size for name, size in zip(parts["train"].spec.static_names, sizes) if name != "user"]
    model = fitted["ctr_mlp, started"].model
    assert model.tower.wide is None
    assert [kept[place] for place in model.tower.read] == [size for size in kept if size <= 20]
    assert len(fitted["ctr_mlp"].model.tower.read) == len(kept) > len(model.tower.read)


def test_a_pair_has_a_rate_only_where_both_codes_are_known(parts: dict[str, Examples]):
    train = parts["train"]
    places = tuple(train.spec.static_names.index(name) for name in ("pid", "adgroup"))
    late = train.day == train.day.max()
    columns = CodeRates.fit(train, (places,), 50.0).columns(train)[late]
    one, two = (train.static[:, place].astype(np.int64) for place in places)
    for row in np.flatnonzero(late)[:20]:
        same = (one == one[row]) & (two == two[row]) & (train.day < train.day.max()) & (one[row] * two[row] > 0)
        at = int(late[:row].sum())
        assert columns[at, 1] == pytest.approx(np.log1p(same.sum()), abs=1e-5)


def test_another_spec_is_refused(fitted: Any, parts: Any, matched: Any):
    model = ClickModel(fitted["din"], parts["train"].spec, None)
    with pytest.raises(FingerprintError, match="make the examples with the spec of the model"):
        model.probabilities(matched["test"])


def test_a_folder_that_is_no_model(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"model\.json"):
        load_click_model(tmp_path)


def test_training_needs_both_labels(parts: dict[str, Examples]):
    train = parts["train"]
    with pytest.raises(TrainingError, match="both clicks"):
        usable(train.rows(train.label == 0))


def test_a_pass_holds_every_row_once_and_all_clicks_when_thinned(parts: dict[str, Examples]):
    train = parts["train"]
    loader = ClickLoader(train, batch_size=100, n_tokens=5, n_parts=2, seed=3)
    seen = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        assert sum(len(batch) for batch in loader) == loader.n_rows
        seen.append(loader.order())
    assert np.unique(np.concatenate(seen)).size == 2 * loader.n_rows >= len(train) - 1
    thinned = ClickLoader(train, batch_size=100, n_tokens=5, keep_rate=0.25, seed=3)
    label = train.label[thinned.order()]
    assert label.sum() == train.label.sum()
    assert (label == 0).sum() == pytest.approx(0.25 * (train.label == 0).sum(), abs=1)


def test_a_batch_is_as_wide_as_its_longest_history(parts: dict[str, Examples]):
    rows = np.arange(8)
    wide = batch_of(parts["test"], rows, n_tokens=200)
    assert wide.tokens.shape[1] < 200
    assert (~wide.is_padding).sum(1).max() == wide.tokens.shape[1]


def test_rates_of_a_row_know_nothing_of_its_day_or_later(parts: dict[str, Examples]):
    train = parts["train"]
    place = train.spec.static_names.index("adgroup")
    before = CodeRates.fit(train, ((place,),), 50.0).columns(train)
    for day in np.unique(train.day):
        flipped = replace(train, label=np.where(train.day >= day, 1 - train.label, train.label).astype(np.int8))
        other = CodeRates.fit(flipped, ((place,),), 50.0).columns(train)
        until = train.day <= day
        is_first = train.day == train.day.min()  # holds the overall prior, and is left out of training
        np.testing.assert_array_equal(other[until & ~is_first], before[until & ~is_first])
    assert np.ptp(before[:, 0]) > 0.01


def test_the_order_of_training_rows_depends_on_the_seed_alone(parts: dict[str, Examples]):
    config = CONFIGS["ctr_mlp"]
    one, two, other = (fit_model(config, parts["train"], parts["valid"], seed=seed) for seed in (1, 1, 2))
    test = parts["test"]
    np.testing.assert_array_equal(one.logits(test), two.logits(test))
    assert not np.allclose(one.logits(test), other.logits(test))
