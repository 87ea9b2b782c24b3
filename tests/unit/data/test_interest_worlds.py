"""Worlds of tastes: their answers can be had from the events, and only from those that the world says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from habitus.data.ingest import ingest
from habitus.data.sources.interest_worlds import (
    START,
    YEAR,
    DrawnTastes,
    Drift,
    LongMemory,
    Twins,
    Untidy,
    Wide,
    draw_tastes,
    untidy_files,
)
from habitus.metrics.classification import auc


def counts(drawn: DrawnTastes, rows: slice | np.ndarray = slice(None)) -> csr_matrix:
    user, interest = drawn.user[rows], drawn.interest[rows]
    return csr_matrix((np.ones(len(user)), (user, interest)), shape=(drawn.n_users, drawn.n_interests))


@pytest.mark.parametrize("kind", [Wide, LongMemory, Twins, Drift])
def test_a_larger_world_holds_the_smaller(kind):
    few, many = draw_tastes(kind(n_users=6)), draw_tastes(kind(n_users=20))
    is_in = many.user < 6
    for name in ("user", "day", "interest"):
        assert np.array_equal(getattr(many, name)[is_in], getattr(few, name))
    for name, label in few.labels.items():
        assert np.array_equal(many.labels[name][:6], label)
    assert (np.diff(few.user * 100_000 + few.day) >= 0).all()


def test_labels_of_the_wide_world_follow_the_tastes():
    world = Wide(n_users=3_000, n_interests=1_000, n_topics=20, n_labels=3)
    drawn = draw_tastes(world)
    topic = counts(drawn) @ csr_matrix(np.repeat(np.eye(20), 50, axis=0))
    share = topic.toarray() + 0.5
    share = np.log(share / share.sum(axis=1, keepdims=True))
    for label in drawn.labels.values():
        assert 0.3 < label.mean() < 0.7
        fitted = np.linalg.lstsq(share[:2_000], label[:2_000] - 0.5, rcond=None)[0]
        assert float(auc(label[2_000:], share[2_000:] @ fitted)) > 0.75


def test_the_old_hobby_is_behind_the_last_200_events():
    world = LongMemory(n_users=500)
    drawn = draw_tastes(world)
    last = np.zeros(len(drawn.user), bool)
    ends = np.cumsum(np.bincount(drawn.user))
    last[(ends[:, None] - 1 - np.arange(200)).ravel()] = True
    reserved = world.n_hobbies * world.per_hobby
    assert not (drawn.interest[last] < reserved).any()
    for k in range(world.n_hobbies):
        touched = np.asarray(counts(drawn)[:, k * 12 : (k + 1) * 12].sum(axis=1)).ravel()
        assert (touched == 8 * drawn.labels[f"hobby_{k}"]).all()
    age = START + 3 * YEAR - 1 - drawn.day[drawn.interest < reserved]
    assert age.min() >= YEAR
    assert age.max() < 3 * YEAR


def test_twins_are_alike_and_drift_hides_the_present():
    twins = draw_tastes(Twins(n_users=400))
    bag = counts(twins)
    alike = (bag @ bag.T).toarray()
    np.fill_diagonal(alike, -1)
    assert twins.twin is not None
    assert (alike.argmax(axis=1) == twins.twin).mean() > 0.95
    drift = draw_tastes(Drift(n_users=600))
    now = np.stack(list(drift.labels.values()), axis=1).argmax(axis=1)
    for rows, low, high in ((drift.day >= drift.day.max() - 90, 0.95, 1.0), (np.ones(len(drift.day), bool), 0.0, 0.6)):
        per_topic = np.add.reduceat(counts(drift, rows).toarray(), np.arange(0, 2_000, 250), axis=1)
        assert low <= (per_topic.argmax(axis=1) == now).mean() <= high


def test_untidy_files_hold_the_same_events(tmp_path):
    drawn = draw_tastes(Twins(n_users=30, n_events=40, n_days=100))
    files = untidy_files(drawn, Untidy(days_per_file=20))
    assert len(files) > 4
    rows = [(r["event_id"], r["user"], r["item"]) for file in files for r in file.events.iter_rows(named=True)]
    assert len(rows) > len(set(rows)) == len(drawn.user)
    assert any((np.diff(file.events["time"].to_physical().to_numpy()) < 0).any() for file in files)
    store = ingest(drawn.log(), tmp_path / "world.store")
    assert store.n_events == len(drawn.user)
    assert store.n_users == 30
