"""Counts in the store: append in pieces and erase give the bytes of one count of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from habitus.core.errors import FingerprintError
from habitus.data.append import append
from habitus.data.erase import erase
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.store import Store
from habitus.tokens.bags import make_bags
from habitus.tokens.counts import BLOCK_COLUMNS, LIFE_COLUMNS, Counts, count_interests
from habitus.tokens.interests import InterestConfig, Interests, fit_interests
from habitus.tokens.layers import MOST
from habitus.tokens.stored_counts import (
    derive_counts,
    keep_counts,
    settle_counts,
    stored_counts,
    stored_interests,
    stored_layers,
)

SCHEMA = Schema.parse(
    {
        "events": {
            "user": "user", "time": "time", "type": "kind", "item": "item", "key": ["row"],
            "amounts": {"spend": {"value": "spend"}}, "text": {"note": "item"},
        },
        "items": {"from": "table", "key": "item", "columns": {"part": "part"}},
        "max_rejected": 0.9,
    }
)  # fmt: skip
CONFIG = InterestConfig(way="field", fields=("part",), amount="spend", groups=(("purchase",), ("visit", "refund")))
UNTIL = 18262 + 69


def parts(n: int) -> pl.DataFrame:
    return pl.DataFrame({"item": [f"i{i}" for i in range(n)], "part": [f"p{i % 5}" for i in range(n)]})


@pytest.fixture
def pieces(shop: pl.DataFrame) -> list[pl.DataFrame]:
    """The days of a shop in four pieces, late rows and repeated rows among them."""
    rows = shop.with_row_index("row").sort("time")
    day = rows["time"].dt.epoch("d") - 18262
    piece = np.digitize(day.to_numpy(), [70, 90, 110])
    late = np.random.default_rng(0).random(rows.height) < 0.05
    piece[late] = 3
    found = [rows.filter(pl.Series(piece == i)) for i in range(4)]
    found[2] = pl.concat([found[2], found[1].head(50)])  # a file that overlaps the one before
    return found


def grow(path: Path, pieces: list[Any], n_items: tuple[int, ...]) -> tuple[Store, Interests]:
    """Ingest the first piece, keep counts, append the others; the item table grows with them."""
    store = ingest(EventLog(SCHEMA, pieces[0], items=parts(n_items[0])), path, n_shards=3)
    interests = fit_interests(store, CONFIG, until=UNTIL)
    keep_counts(store, interests)
    for piece, n in zip(pieces[1:], n_items[1:], strict=True):
        store = append(path, EventLog(SCHEMA, piece, items=parts(n)), derive=derive_counts)
    return store, interests


def assert_equal(a: Counts, b: Counts) -> None:
    for x, y, names in ((a, b, BLOCK_COLUMNS), (a.life, b.life, LIFE_COLUMNS)):
        for name in ("user_offsets", *names):
            np.testing.assert_array_equal(getattr(x, name), getattr(y, name), err_msg=name)


def files_of(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("n_items", [(20, 20, 20, 20), (12, 15, 15, 20)])
def test_append_in_pieces_gives_the_bytes_of_one_count(
    tmp_path: Path, pieces: list[pl.DataFrame], n_items: tuple[int, ...]
):
    """In the second case items get their content after their first events, which then move from interest 0."""
    files = [tmp_path / f"{i}.parquet" for i in range(4)]
    for file, piece in zip(files, pieces, strict=True):
        piece.write_parquet(file)
    store, interests = grow(tmp_path / "grown", files, n_items)
    whole = ingest(EventLog(SCHEMA, files, items=parts(20)), tmp_path / "whole", n_shards=3)
    keep_counts(whole, interests)
    assert store.fingerprint == whole.fingerprint
    settle_counts(store, interests.version)
    store = Store.open(store.path)
    assert files_of(tmp_path / "grown") == files_of(tmp_path / "whole")
    assert_equal(stored_counts(store, interests.version), count_interests(store, interests))
    first = ingest(EventLog(SCHEMA, files[0], items=parts(n_items[0])), tmp_path / "first", n_shards=3)
    assert (count_interests(first, interests).interest == 0).any() == (n_items[0] < 20)
    assert (stored_counts(store, interests.version).interest > 0).all()
    Store.open(store.path).check()


def test_erase_is_never_there_and_others_keep_every_byte(tmp_path: Path, pieces: list[pl.DataFrame]):
    store, interests = grow(tmp_path / "s", pieces, (20,) * 4)
    before = stored_counts(store, interests.version)
    ids = store.users["user"].to_list()
    gone = [ids[0], ids[7], ids[-1]]
    done = erase(store.path, gone, derive=derive_counts)
    store = Store.open(store.path)
    store.check()
    assert done.n_users == 3
    rest = pl.concat(pieces).filter(~pl.col("user").is_in(gone))
    never = ingest(EventLog(SCHEMA, rest, items=parts(20)), tmp_path / "never", n_shards=3)
    assert_equal(stored_counts(store, interests.version), count_interests(never, interests))
    assert store.manifest["counts"]["kept"] == never.n_events
    kept = np.flatnonzero(~np.isin(ids, gone))
    left = [np.split(before.n, before.user_offsets[1:-1])[u].tolist() for u in kept]
    counts = stored_counts(store, interests.version)
    assert [part.tolist() for part in np.split(counts.n, counts.user_offsets[1:-1])] == left
    more = pieces[3].with_columns(row=pl.col("row") + 10**6)
    store = append(store.path, EventLog(SCHEMA, more, items=parts(20)), derive=derive_counts)
    assert not set(gone) & set(store.users["user"].to_list())
    assert_equal(stored_counts(store, interests.version), count_interests(store, interests))


def test_counts_live_in_the_store_and_leave_its_fingerprint(tmp_path: Path, pieces: list[pl.DataFrame]):
    store = ingest(EventLog(SCHEMA, pieces[0], items=parts(20)), tmp_path / "s")
    fits = [fit_interests(store, CONFIG.model_copy(update={"block": b}), until=UNTIL) for b in ("day", "week")]
    for interests in fits:
        assert_equal(keep_counts(store, interests), count_interests(store, interests))
        assert stored_interests(Store.open(store.path), interests.version).version == interests.version
    opened = Store.open(store.path)
    assert opened.fingerprint == store.fingerprint
    assert set(opened.manifest["interests"]) == {interests.version for interests in fits}
    with pytest.raises(FingerprintError, match=fits[0].version):
        stored_counts(opened, "0000")
    append(store.path, EventLog(SCHEMA, pieces[1], items=parts(20)))  # without derive: dropped, not left stale
    assert not list((store.path / "interests").glob("*/*"))
    assert "interests" not in Store.open(store.path).manifest


def test_a_small_append_adds_a_layer_and_leaves_the_rows_of_the_counts_where_they_lie(
    tmp_path: Path, shop: pl.DataFrame
):
    rows = shop.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    store, interests = grow(tmp_path / "s", [rows], (20,))
    version = interests.version
    before = Store.open(store.path).manifest["interests"][version]["shards"]
    ids = store.users["user"].to_list()
    layers = []
    for k in range(MOST + 2):  # one visit each of an old user and of a new one, whose id lies between theirs
        few = rows.head(2).with_columns(
            row=pl.Series([10**6 + 2 * k, 10**6 + 2 * k + 1]), user=pl.Series([ids[0], f"{ids[0]}-{k}"])
        )
        rows = pl.concat([rows, few])
        store = append(store.path, EventLog(SCHEMA, few, items=parts(20)), derive=derive_counts)
        store.check()
        layers = stored_layers(store, version)
        assert max(len(one.parts) for one in layers) <= 1 + MOST
        now = store.manifest["interests"][version]["shards"]
        assert all(one[name] == old[name] for one, old in zip(now, before, strict=True) for name in ("blocks", "life"))
        assert_equal(stored_counts(store, version), count_interests(store, interests))
    assert max(len(one.parts) for one in layers) > 1
    for one in layers:  # bags read layers as they are
        users = np.arange(one.n_users)
        for a, b in zip(make_bags(one, interests, users).scales, make_bags(one.whole(), interests, users).scales):
            assert all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
    whole = ingest(EventLog(SCHEMA, rows, items=parts(20)), tmp_path / "whole", n_shards=3)
    settle_counts(store, version)
    assert_equal(stored_counts(Store.open(store.path), version), keep_counts(whole, interests))
    erase(store.path, [ids[0]], derive=derive_counts)
    store = Store.open(store.path)
    assert_equal(stored_counts(store, version), count_interests(store, interests))
