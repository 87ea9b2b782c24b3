"""Probes: chance on permuted labels, nothing of a test row reaches its head, pairs share their resamples."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from habitus.core.errors import ConfigError, TargetError
from habitus.data.ingest import ingest
from habitus.data.sources.interest_worlds import Twins, draw_tastes
from habitus.tasks.probe import Block, ProbeConfig, probe, probe_features, verdict
from habitus.tasks.probe.comparators import event_count, mean_item_vector, random_projection, tfidf_svd
from habitus.tasks.probe.features import as_features, prepared
from habitus.tasks.probe.logistic import fit_logistic
from habitus.testing.threads import one_thread  # noqa: F401

FAST = ProbeConfig(heads=("logistic",), n_seeds=2, n_inner=2, n_resamples=50)


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 6))
    return x, (x[:, 0] + 0.3 * rng.normal(size=300) > 0.4).astype(float)


@pytest.mark.usefixtures("one_thread")
def test_permuted_labels_are_chance_and_true_ones_are_not(rows):
    x, y = rows
    rng = np.random.default_rng(2)
    shuffled = {f"permuted {i}": rng.permutation(y) for i in range(5)}
    config = FAST.model_copy(update={"heads": ("logistic", "mlp", "trees"), "n_seeds": 1})
    table = probe_features({"x": x}, {"true": y} | shuffled, config)
    for head in config.heads:
        assert table.cell("true", "x", head).value > 0.9
        found = [table.cell(name, "x", head).value for name in shuffled]
        assert abs(np.mean(found) - 0.5) < 0.05  # sd 0.034 each, 0.015 together


@pytest.mark.parametrize("is_sparse", [False, True])
def test_logistic_is_that_of_scikit_learn(rows, is_sparse):
    x, y = rows
    given = sparse.csr_matrix(np.where(np.abs(x) > 0.7, x, 0)) if is_sparse else x
    ours = fit_logistic(given, np.stack([y, 1 - y], axis=1), 0.5, steps=1000)
    model = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(given, y)
    assert np.allclose(ours[:-1, 0], model.coef_[0], atol=2e-3)
    assert ours[-1, 0] == pytest.approx(model.intercept_[0], abs=2e-3)
    assert np.allclose(ours[:, 1], -ours[:, 0], atol=2e-3)


def test_what_is_fitted_sees_training_rows_alone(rows):
    x, _ = rows
    x = np.where(np.random.default_rng(3).random(x.shape) < 0.1, np.nan, x)
    train, test = np.arange(200), np.arange(200, 300)
    blocks = as_features((Block(x, kind="numbers"), Block(np.nan_to_num(x), n_components=2)))
    one, _ = prepared(blocks, train, test, is_linear=True)
    x2 = x.copy()
    x2[test] = 1e6
    two, _ = prepared(
        as_features((Block(x2, kind="numbers"), Block(np.nan_to_num(x2), n_components=2))), train, test, is_linear=True
    )
    assert np.array_equal(one, two)
    assert one.shape[1] == 6 + 6 + 2  # columns, what was missing, components


def test_the_same_features_twice_differ_by_nothing_and_joint_labels_agree(rows):
    x, y = rows
    table = probe_features({"a": x, "b": x.copy()}, {"y": y}, FAST)
    gap = table.difference("y", "a", "b", "logistic")
    assert (gap.value, gap.low, gap.high) == (0, 0, 0)
    joint = probe_features({"a": x}, {"y": y, "not": 1 - y}, FAST.model_copy(update={"is_joint": True}))
    assert joint.cell("y", "a", "logistic").value == pytest.approx(joint.cell("not", "a", "logistic").value, abs=1e-3)
    assert table.mean_difference("a", "b", "logistic").value == 0
    assert verdict(
        probe_features({"aggregates": x, "flat": x[:, 1:]}, {"y": y}, FAST), ("flat",), "logistic"
    ).startswith("Aggregates alone win")


def test_unknown_labels_are_left_out_and_odd_ones_refused(rows):
    x, y = rows
    half = np.where(np.arange(300) < 150, y, np.nan)
    rare = np.zeros(300)
    rare[:3] = 1
    table = probe_features({"x": x}, {"half": half, "rare": rare}, FAST)
    assert table.cell("half", "x", "logistic").n_users == 150
    assert "3 of 300" in table.why_not["rare"]
    with pytest.raises(TargetError, match="0, 1"):
        probe_features({"x": x}, {"y": y * 2}, FAST)
    with pytest.raises(ConfigError, match="one label per row"):
        probe_features({"x": x}, {"y": y[:-1]}, FAST)
    with pytest.raises(ConfigError, match="finite"):
        probe_features({"x": np.full((300, 1), np.nan)}, {"y": y}, FAST)


def test_comparators_keep_what_a_wide_bag_says():
    drawn = draw_tastes(Twins(n_users=200, n_interests=300))
    counts = sparse.csr_matrix((np.ones(len(drawn.user)), (drawn.user, drawn.interest)), shape=(200, 300))
    for block in (tfidf_svd(counts, 32), mean_item_vector(counts, 32), random_projection(counts, 128)):
        vectors = block.value / np.linalg.norm(block.value, axis=1, keepdims=True)
        alike = vectors @ vectors.T
        np.fill_diagonal(alike, -1)
        assert (alike.argmax(axis=1) == drawn.twin).mean() > 0.5
    assert tfidf_svd(counts, 32).value.shape == (200, 32)
    assert np.allclose(event_count(counts).value, np.log1p(120))


def test_the_verb_reads_tables_measures_targets_and_says_who_wins(tmp_path):
    drawn = draw_tastes(Twins(n_users=120, n_events=12))
    store = ingest(drawn.log(), tmp_path / "world.store")
    rng = np.random.default_rng(0)
    value = rng.normal(size=(120, 4)).astype(np.float32)
    day = pl.Series([int(np.sort(drawn.day)[-200])] * 120).cast(pl.Int32).cast(pl.Date)
    vectors = pl.DataFrame(
        {"user": store.users["user"], "as_of": day, "flat": pl.Series(value, dtype=pl.Array(pl.Float32, 4))}
    )
    labels = pl.DataFrame({"user": store.users["user"].reverse(), "up": (value[::-1, 0] > 0).astype(int)})
    labels.write_csv(tmp_path / "labels.csv")
    target = "any(visit) in 14d"
    table, text = probe(
        vectors,
        labels=tmp_path / "labels.csv",
        targets=[target],
        store=store,
        fuse=True,
        config=FAST,
        out=tmp_path / "p.parquet",
    )
    assert table.cell("up", "flat", "logistic").value > 0.95
    assert table.cell("up", "aggregates", "logistic").value < 0.75
    assert set(table.labels) | set(table.why_not) == {"up", target}
    assert text.splitlines()[0].startswith("both beats aggregates alone") or "flat beats" in text.splitlines()[0]
    assert pl.read_parquet(tmp_path / "p.parquet").height == len(table.cells)
    with pytest.raises(ConfigError, match="neither"):
        probe(vectors)
    with pytest.raises(ConfigError, match="the store"):
        probe(vectors, targets=[target])
    with pytest.raises(ConfigError, match="flat or vector"):
        probe(vectors.drop("flat"), labels=labels)
