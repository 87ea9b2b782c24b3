"""Similar: exact search is brute force, ties are by user id, an index below its floor is refused."""

from __future__ import annotations

import builtins

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import ArtifactError, ConfigError, ExtraError, FingerprintError
from habitus.tasks import similar as module
from habitus.tasks.similar import hubness, nearest_users, similar
from habitus.tasks.similar_index import build_index, open_index, recall


def table(n: int = 60, d: int = 8, m: int = 2, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    flat = rng.normal(size=(n, d)).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    vectors = flat.reshape(n, m, d // m)
    return pl.DataFrame(
        {
            "user": [f"u{i:03d}" for i in range(n)],
            "flat": pl.Series(flat, dtype=pl.Array(pl.Float32, d)),
            "vectors": pl.Series(vectors, dtype=pl.Array(pl.Float32, (m, d // m))),
        }
    )


def test_exact_is_brute_force_whatever_the_blocks(monkeypatch):
    rng = np.random.default_rng(1)
    value = np.round(rng.normal(size=(20_000, 3)) * 2).astype(np.float32)  # many equal scores
    asked = np.array([5, 19_999, 8_192])
    score = value[asked] @ value.T
    score[np.arange(3), asked] = -np.inf
    wanted = np.argsort(-score, axis=1, kind="stable")[:, :50]
    for block in (8_192, 2_000_000):
        monkeypatch.setattr(module, "BLOCK", block)
        found = nearest_users(value, value[asked], 50, without=asked)
        assert np.array_equal(found.place, wanted)
    few = nearest_users(value[:3], value[:2], 5, without=np.array([0, 1]))
    assert (few.place[:, 2:] == -1).all()
    assert (np.sort(few.place[:, :2]) >= 0).all()


def test_ties_are_by_user_id_and_the_order_of_the_table_changes_nothing():
    rows = table(30)
    same = pl.concat([rows, rows.with_columns(pl.col("user").str.replace("u", "a"))])
    one = similar(same, users=["u003"], k=10)
    two = similar(same.sample(fraction=1, shuffle=True, seed=3), users=["u003"], k=10)
    assert one.equals(two)
    assert one["like"][0] == "a003"
    pairs = [(a, b) for a, b in zip(one["like"], one["like"][1:]) if a[1:] == b[1:]]
    assert len(pairs) >= 4
    assert all(a < b for a, b in pairs)
    assert one["rank"].to_list() == list(range(1, 11))


def test_anchors_search_one_respect_and_any_takes_the_best():
    rows = table(40)
    vectors = rows["vectors"].to_numpy()
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    cosine = np.einsum("mp,nmp->nm", unit[7], unit)
    cosine[7] = -np.inf
    best = similar(rows, users=["u007"], k=5, anchor="any")
    order = np.argsort(-cosine.max(axis=1))[:5]
    assert best["like"].to_list() == [f"u{i:03d}" for i in order]
    assert best["anchor"].to_list() == cosine[order].argmax(axis=1).tolist()
    assert np.allclose(best["score"], cosine.max(axis=1)[order], atol=1e-6)
    one = similar(rows, users=["u007"], k=3, anchor=1)
    assert one.height == 3
    with pytest.raises(ConfigError, match=r"0 .. 1"):
        similar(rows, users=["u007"], anchor=2)


@pytest.mark.parametrize("how", ["mean", "classifier"])
def test_an_audience_is_like_its_seeds_and_leaves_them_out(how):
    rng = np.random.default_rng(2)
    value = rng.normal(size=(200, 6)).astype(np.float32)
    value[:50, 0] += 4
    rows = pl.DataFrame(
        {"user": [f"u{i:03d}" for i in range(200)], "flat": pl.Series(value, dtype=pl.Array(pl.Float32, 6))}
    )
    seeds = [f"u{i:03d}" for i in range(20)]
    found = similar(rows, users=seeds, k=30, how=how)
    assert not set(found["user"]) & set(seeds)
    assert sum(int(name[1:]) < 50 for name in found["user"]) >= 24
    assert found["like"].null_count() == 30


def test_an_index_is_measured_stored_and_refused_below_its_floor(tmp_path, monkeypatch):
    rows = table(400, 16)
    facts = build_index(rows, tmp_path / "flat", kind="flat", k=10)
    assert facts["recall"] == 1.0
    assert facts["n_queries"] == 400
    exact = similar(rows, users=["u001", "u200"], k=10)
    assert (
        similar(rows, users=["u001", "u200"], k=10, index=tmp_path / "flat").drop("score").equals(exact.drop("score"))
    )
    for kind in ("hnsw", "ivf"):
        assert build_index(rows, tmp_path / kind, kind=kind, k=10)["recall"] >= 0.95
        assert open_index(tmp_path / kind).facts["effort"] > 0
    with pytest.raises(ArtifactError, match="recall@10"):
        build_index(rows, tmp_path / "none", kind="ivf", k=10, floor=1.01)
    assert not (tmp_path / "none").exists()
    with pytest.raises(FingerprintError, match="other vectors"):
        similar(table(400, 16, seed=1), users=["u001"], k=10, index=tmp_path / "flat")
    with pytest.raises(ArtifactError):
        open_index(tmp_path)


def test_without_the_extra_the_error_names_it(monkeypatch, tmp_path):
    import habitus.core.errors as errors

    def absent(name: str, *rest: object) -> object:
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return builtins.__import__(name, *rest)

    monkeypatch.setattr(errors.importlib, "import_module", absent)
    with pytest.raises(ExtraError, match=r"habitus\[search\]"):
        build_index(table(), tmp_path / "index")


def test_bad_questions_are_refused():
    rows = table(10)
    with pytest.raises(ConfigError, match="1 unknown, such as 'nobody'"):
        similar(rows, users=["u001", "nobody"])
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        similar(rows, users=["u001"], how="meen")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="each user once"):
        similar(pl.concat([rows, rows]), users=["u001"])


def test_hubs_are_seen():
    rng = np.random.default_rng(0)
    even = hubness(rng.integers(0, 200, (200, 10)), 200)
    place = rng.integers(0, 200, (200, 10))
    place[:, 0] = 7
    hub = hubness(place, 200)
    assert abs(even["skew"]) < 1
    assert hub["skew"] > 5
    assert hub["most"] >= 200
    assert recall(place, place) == 1.0
