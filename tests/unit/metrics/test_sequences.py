"""Metrics of generated sequences against values worked out another way."""

from collections import Counter

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, wasserstein_distance

from habitus.core.errors import ConfigError
from habitus.metrics import sequences as s


def rows_of(label: np.ndarray, owner: np.ndarray) -> dict[int, list[int]]:
    return {int(o): [int(x) for x in label[owner == o]] for o in np.unique(owner)}


def grams_of(row: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


@pytest.fixture
def sides() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    owners = [np.sort(draw.integers(0, 6, n)) for n in (60, 80)]
    return draw.integers(0, 4, 60), owners[0], draw.integers(0, 4, 80), owners[1]


def test_divergences_against_scipy() -> None:
    draw = np.random.default_rng(1)
    for _ in range(5):
        a, b = draw.integers(0, 9, 6), draw.integers(0, 9, 6)
        p, q = a / a.sum(), b / b.sum()
        assert s.jensen_shannon(a, b) == pytest.approx(jensenshannon(p, q) ** 2)
        assert s.total_variation(a, b) == pytest.approx(np.abs(p - q).sum() / 2)
    assert s.jensen_shannon(a, a) == 0
    assert np.isnan(s.jensen_shannon(a, np.zeros(6)))
    with pytest.raises(ConfigError, match="same classes"):
        s.jensen_shannon(a, b[1:])


def test_label_entropy_against_scipy(sides: tuple) -> None:
    label, owner = sides[:2]
    assert s.label_entropy(label) == pytest.approx(entropy(np.bincount(label)))
    own = [entropy(np.bincount(row)) for row in rows_of(label, owner).values()]
    assert s.label_entropy(label, owner) == pytest.approx(np.mean(own))
    assert np.isnan(s.label_entropy(label[:0]))
    assert s.entropy_share(label * 0, label) == 0
    assert np.isnan(s.entropy_share(label, label * 0))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_share_against_sets(sides: tuple, n: int) -> None:
    label, owner = sides[:2]
    grams = [grams_of(row, n) for row in rows_of(label, owner).values()]
    assert s.distinct_share(label, owner, n) == pytest.approx(np.mean([len(set(g)) / len(g) for g in grams if g]))
    assert np.isnan(s.distinct_share(label[:1], owner[:1], n=2))


@pytest.mark.parametrize("n", [1, 3, 5])
def test_copies_against_sets(sides: tuple, n: int) -> None:
    told, told_owner, past, past_owner = sides
    old = {o: set(grams_of(row, n)) for o, row in rows_of(past, past_owner).items()}
    everybody = set().union(*old.values())
    own = other = total = 0
    for o, row in rows_of(told, told_owner).items():
        for gram in grams_of(row, n):
            own += gram in old.get(o, ())
            other += gram in everybody and gram not in old.get(o, ())
            total += 1
    assert s.copied_share(told, told_owner, past, past_owner, n) == pytest.approx((own / total, other / total))


def test_bleu_against_counters(sides: tuple) -> None:
    told, told_owner, real, real_owner = sides
    a, b = rows_of(told, told_owner), rows_of(real, real_owner)
    logs = []
    for n in (1, 2, 3):
        hits = sum((Counter(grams_of(a[o], n)) & Counter(grams_of(b.get(o, []), n))).total() for o in a)
        logs.append(np.log(hits / sum(len(grams_of(row, n)) for row in a.values())))
    expected = np.exp(np.mean(logs) + min(0, 1 - len(real) / len(told)))
    assert s.bleu(told, told_owner, real, real_owner, max_n=3) == pytest.approx(expected)
    assert s.bleu(told + 10, told_owner, real, real_owner) == 0.0
    assert np.isnan(s.bleu(told, told_owner, real[:0], real_owner[:0]))
    assert s.bleu(real, real_owner, real, real_owner) == pytest.approx(1.0)


def test_gap_distance_against_scipy() -> None:
    draw = np.random.default_rng(2)
    a, b = draw.exponential(1e4, 50), np.append(draw.exponential(2e4, 31), [0.0, 0.2])
    expected = wasserstein_distance(np.log(np.maximum(a, 1)), np.log(np.maximum(b, 1)))
    assert s.gap_distance(a, b) == pytest.approx(expected)
    assert np.isnan(s.gap_distance(a, b[:0]))


def test_bigram_divergence_against_scipy(sides: tuple) -> None:
    told, told_owner, real, real_owner = sides
    counts = [
        Counter(g for row in rows_of(x, o).values() for g in grams_of(row, 2))
        for x, o in ((told, told_owner), (real, real_owner))
    ]
    keys = sorted(set(counts[0]) | set(counts[1]))
    p, q = (np.array([c[k] for k in keys]) / c.total() for c in counts)
    assert s.bigram_divergence(told, told_owner, real, real_owner) == pytest.approx(jensenshannon(p, q) ** 2)


def test_long_grams_stay_exact() -> None:
    """Codes of long n-grams over many labels would overflow if they were not numbered anew."""
    label = np.arange(4_000) * 997 % 4_001
    twice, owner = np.concatenate([label, label]), np.repeat([0, 1], 4_000)
    assert s.copied_share(label, owner[:4_000], twice[4_000:], owner[4_000:], n=8) == (0.0, 1.0)
    with pytest.raises(ConfigError, match="n of at least 1"):
        s.distinct_share(label, label, 0)
