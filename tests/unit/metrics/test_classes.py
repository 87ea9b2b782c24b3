"""Metrics of many classes against scikit-learn, and their resamples against the plain value."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_score

from habitus.core.errors import ConfigError
from habitus.metrics.classes import frequency_groups, macro_recall, n_classes, precision, weighted_recall


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    y = draw.zipf(1.5, 500) % 17
    return y, np.where(draw.random(500) < 0.5, y, draw.integers(0, 17, 500))


def test_rec_w_is_accuracy_and_rec_m_balanced_accuracy(rows: tuple) -> None:
    y, told = rows
    assert weighted_recall(y, y == told) == pytest.approx(accuracy_score(y, told))
    assert macro_recall(y, y == told) == pytest.approx(balanced_accuracy_score(y, told))
    assert n_classes(y) == len(set(y.tolist()))


@pytest.mark.parametrize("is_macro", [False, True])
def test_precision_against_scikit_learn(rows: tuple, is_macro: bool) -> None:
    y, told = rows
    how = "macro" if is_macro else "weighted"
    assert precision(y, told, is_macro=is_macro) == pytest.approx(
        precision_score(y, told, average=how, zero_division=0)
    )


def test_resamples_weigh_what_repeated_rows_would(rows: tuple) -> None:
    y, told = rows
    count = np.random.default_rng(1).integers(0, 3, (4, y.size))
    found = macro_recall(y, y == told, count), weighted_recall(y, y == told, count)
    for r in range(4):
        again, said = np.repeat(y, count[r]), np.repeat(told, count[r])
        assert found[0][r] == pytest.approx(balanced_accuracy_score(again, said))
        assert found[1][r] == pytest.approx(accuracy_score(again, said))


def test_without_rows_there_is_no_value() -> None:
    none = np.zeros(0, int)
    assert all(np.isnan(v) for v in (macro_recall(none, none), weighted_recall(none, none), precision(none, none)))
    with pytest.raises(ConfigError, match="one length"):
        macro_recall(np.zeros(2), np.zeros(3))


def test_groups_share_out_the_classes() -> None:
    count = np.random.default_rng(2).zipf(1.3, 300) % 1_000
    groups = frequency_groups(count)
    assert not (groups.head & groups.tail).any()
    assert (groups.head | groups.tail).all()
    assert count[groups.head].sum() >= 0.8 * count.sum()
    least = count[groups.head].min()
    assert count[groups.head].sum() - least < 0.8 * count.sum()  # no class too many
    assert count[groups.tail].max() <= least
    assert groups.bottom.sum() == 100
    assert count[groups.bottom].max() <= count[~groups.bottom].min()


def test_exactly_the_share_is_enough() -> None:
    assert frequency_groups(np.array([4, 4, 1, 1])).head.tolist() == [True, True, False, False]
    assert not frequency_groups(np.zeros(3)).head.any()
