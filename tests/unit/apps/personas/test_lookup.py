"""The store of past answers: what a row is told never holds its own label; near duplicates are found, and only they."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.apps.personas.combine import Mix, Parts, answered, posterior, tell
from habitus.apps.personas.evaluate import lookup_table
from habitus.apps.personas.lookup import LEVELS, NEW, Asked, LookupStore, build_store, chain, keys_of
from habitus.apps.personas.near import jaccard, near_groups, shingles
from habitus.apps.personas.rows import fold_of, prepare, stream
from habitus.apps.personas.settings import LookupSettings
from habitus.core.errors import ArtifactError
from habitus.data.sources.persona_threads import text_keys

N, A = 400, 3
SETTINGS = LookupSettings(n_folds=4)
TEXTS = pl.Series([f"the quick brown fox number {i} jumps over dog {i * 7}" for i in range(20)])


def rows(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    post = rng.integers(0, 20, N)
    content = rng.integers(0, 2**62, N, dtype=np.uint64)
    return {
        "post": post, "cluster": rng.integers(0, 3, N).astype(np.int32), "key": text_keys(TEXTS)[post],
        "group": post % 4, "label": rng.integers(0, A, N), "fold": fold_of(content, 4),
    }  # fmt: skip


def built(path: Path, given: dict[str, np.ndarray]) -> LookupStore:
    posts = pl.DataFrame({"key": text_keys(TEXTS), "text": TEXTS})
    some = {name: given[name] for name in ("cluster", "key", "group", "label", "fold")}
    build_store(path, SETTINGS, posts=posts, n_actions=A, **some)
    return LookupStore(path, A)


def asked(store: LookupStore, given: dict[str, np.ndarray], *, is_train: bool):
    near = store.near(given["key"], TEXTS.gather(given["post"]), 0.7)
    fold = given["fold"] if is_train else np.full(N, NEW, np.int16)
    return store.look(Asked(keys_of(given["cluster"], given["key"], near, given["group"]), fold))


def test_a_training_row_never_sees_its_own_label(tmp_path: Path):
    given = rows()
    changed = dict(given, label=given["label"].copy())
    changed["label"][17] = (given["label"][17] + 1) % A
    before, after = (
        asked(built(tmp_path / f"{i}.duckdb", g), g, is_train=True) for i, g in enumerate((given, changed))
    )
    same = np.flatnonzero(given["fold"] == given["fold"][17])
    for level in LEVELS:
        assert np.array_equal(before.counts[level][same], after.counts[level][same]), level
    assert np.array_equal(before.expected[same], after.expected[same])
    others = np.flatnonzero((given["key"] == given["key"][17]) & (given["fold"] != given["fold"][17]))
    assert others.size
    assert (before.counts["exact"][others] != after.counts["exact"][others]).any(axis=1).all()


def test_counts_add_up_to_the_training_rows(tmp_path: Path):
    given = rows()
    store = built(tmp_path / "s.duckdb", given)
    found = asked(store, given, is_train=False)
    first = np.unique(given["key"], return_index=True)[1]
    assert found.counts["exact"][first].sum() == N
    kept = asked(store, given, is_train=True)
    own = np.array([(given["fold"] == f).sum() for f in given["fold"]])
    cells = list(zip(given["cluster"].tolist(), given["fold"].tolist()))
    alone = np.array([cells.count(cell) for cell in cells])
    assert own.min() > 0
    assert np.array_equal(found.counts["persona"].sum(axis=1) - kept.counts["persona"].sum(axis=1), alone)
    for shares in chain(kept, SETTINGS, 1.0).values():
        assert np.allclose(shares.sum(axis=1), 1)
    expected = found.expected.sum(axis=1)
    assert np.allclose(expected, found.counts["near"].sum(axis=1), rtol=1e-4)


def test_an_empty_text_looks_nothing_up(tmp_path: Path):
    given = rows()
    given["key"][:50] = 0
    found = asked(built(tmp_path / "s.duckdb", given), given, is_train=False)
    assert not found.counts["exact"][:50].any()
    assert not found.counts["own"][:50].any()
    assert found.counts["persona"][:50].sum(axis=1).min() > 0


def test_a_file_that_is_no_store_is_refused(tmp_path: Path):
    (tmp_path / "x.duckdb").write_text("no")
    with pytest.raises(ArtifactError, match="lookup store"):
        LookupStore(tmp_path / "x.duckdb", A)


def test_a_copy_a_word_apart_has_the_key_of_its_original(tmp_path: Path):
    words = [f"w{i}" for i in range(24)]
    text = " ".join(words)
    swapped, other = " ".join([*words[:-1], "zz"]), " ".join(reversed(words))
    given = pl.Series([text, text + " <URL>", other, "שלום עולם טוב מאוד", ""])
    keys = text_keys(given)
    groups = near_groups(given, keys, 0.7)
    assert groups[0] == groups[1] == keys[:2].min()
    assert groups[2:].tolist() == keys[2:].tolist()
    rows_ = {"cluster": np.zeros(4, np.int32), "group": np.zeros(4, np.int64), "label": np.arange(4) % A}
    build_store(tmp_path / "s.duckdb", SETTINGS, posts=pl.DataFrame({"key": keys[:4], "text": given[:4]}), key=keys[:4],
                fold=np.zeros(4, np.int16), n_actions=A, **rows_)  # fmt: skip
    fresh = pl.Series([swapped, "nothing like it at all my friend", ""])
    found = LookupStore(tmp_path / "s.duckdb", A).near(text_keys(fresh), fresh, 0.7)
    assert found.tolist() == [groups[0], *text_keys(fresh)[1:].tolist()]


def test_similarity_is_that_of_sets():
    a, b = shingles(pl.Series(["a b c d e f g", "x"])), shingles(pl.Series(["a b c d e f h", "y"]))
    assert jaccard(a, np.array([0, 1]), b, np.array([0, 1])).tolist() == pytest.approx([4 / 6, 0])


def parts(n: int = 4) -> Parts:
    rng = np.random.default_rng(0)
    own = np.array([[9, 0, 0], [0, 0, 0], [1, 1, 1], [0, 5, 1]], np.float32)
    pooled = rng.dirichlet(np.ones(A), n)
    lookup, common = rng.dirichlet(np.ones(A), n), rng.dirichlet(np.ones(2), n)
    return Parts(pooled, lookup, pooled, common, rng.random(n), np.ones((n, 1)), own, own)


def test_the_posterior_adds_up_and_the_store_answers_where_it_may():
    given = parts()
    for mix in (Mix((0, 1)), Mix((0, 2), kappa=5.0, threshold=0.8, gate=1.0, network=0.0)):
        assert np.allclose(posterior(given, mix).sum(axis=1), 1)
    mix = Mix((0, 1), threshold=0.8)
    direct, told = answered(given, mix)
    assert direct.tolist() == [True, False, False, True]
    assert tell(given, mix)[direct].tolist() == told[direct].tolist() == [0, 1]
    assert Mix.from_json(mix.to_json()) == mix
    table = lookup_table(given, np.array([0, 1, 2, 0]))
    assert table[3] == {"level": "this persona", "tau": 0.8, "coverage": 0.5, "precision": 0.5}


def test_a_time_split_keeps_each_personas_last_rows_for_the_test(tmp_path: Path):
    rng = np.random.default_rng(1)
    table = pl.DataFrame({
        "thread_id": [str(i) for i in range(500)], "cluster": rng.integers(0, 3, 500).astype(np.int32),
        "rank_action": rng.permutation(500), "content": rng.integers(0, 2**62, 500, dtype=np.uint64),
    })  # fmt: skip
    counts = prepare(iter([table[:200], table[200:]]), tmp_path / "rows", split="time", seed=0)
    assert sum(counts.values()) == 500
    parts_ = {name: pl.concat(list(stream(tmp_path / "rows", name))) for name in ("train", "valid", "test")}
    for who in range(3):
        ranks = {name: part.filter(cluster=who)["rank_action"] for name, part in parts_.items()}
        assert ranks["train"].max() < ranks["valid"].min()
        assert ranks["valid"].max() < ranks["test"].min()
