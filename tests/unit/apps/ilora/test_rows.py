"""Rows and candidates: nothing of the future, nothing twice, nothing that an id could give away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.apps.ilora.candidates import Candidates, draw_candidates, epoch_candidates
from habitus.apps.ilora.prepare import Prepared, prepare
from habitus.apps.ilora.rows import Sequences, clean_title, read_sequences
from habitus.core.errors import ArtifactError, ConfigError, FingerprintError, SchemaError
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.store import Store

from .conftest import SCHEMA, title_log


def test_parts_are_the_last_items_and_never_meet(prepared: Prepared):
    s = prepared.sequences
    train, valid, test = (s.rows(part) for part in ("train", "valid", "test"))
    assert len(test) == len(s.users) == 24
    assert (test.at == s.offsets[1:] - 1).all()
    assert set(valid.at) <= set(s.offsets[1:] - 2)
    assert s.is_seen[valid.user].all()
    assert s.is_seen[train.user].all()
    assert (~s.is_seen).sum() == 3
    assert not set(train.at) & (set(valid.at) | set(test.at))
    assert (train.at - s.offsets[train.user] >= 3).all()
    assert not (set(np.flatnonzero(s.in_train)) & (set(valid.at) | set(test.at)))


def test_histories_end_before_the_answer(prepared: Prepared):
    rows = prepared.sequences.rows("test")
    past = rows.history(4)
    for i, at in enumerate(rows.at):
        low = max(prepared.sequences.offsets[rows.user[i]], at - 4)
        assert past[i][past[i] >= 0].tolist() == prepared.sequences.item[low:at].tolist()


def test_titles_are_cleaned_and_equal_films_are_one_item(tmp_path: Path):
    events = pl.DataFrame({"user": ["u"] * 5, "item": list("abcde"), "time": [1, 2, 3, 4, 5]})
    titles = ["Fan, The (1996)", "Fan, The (1996)", "Sabrina (1954)", "Sabrina (1995)", "Heat (1995)"]
    items = pl.DataFrame({"item": list("abcde"), "title": titles})
    schema = {key: value for key, value in SCHEMA.items() if key != "profile"}
    store = ingest(EventLog(Schema.parse(schema), events, items=items), tmp_path / "films.store")
    s = read_sequences(store)
    assert sorted(s.titles) == ["Heat", "Sabrina (1954)", "Sabrina (1995)", "The Fan"]
    assert [s.titles[i] for i in s.item] == ["The Fan", "Sabrina (1954)", "Sabrina (1995)", "Heat"]
    assert clean_title("L'Homme, Le") == ("Le L'Homme", "")


def test_relabelled_ids_change_no_title_and_no_order(tmp_path: Path):
    log = title_log()
    other = {f"i{i}": f"x{(i * 17) % 50}" for i in range(50)}
    renamed = EventLog(
        log.schema,
        log.events.with_columns(pl.col("item").replace(other)),
        log.profiles,
        log.items.with_columns(pl.col("item").replace(other)),
    )
    one, two = (read_sequences(ingest(each, tmp_path / f"{i}.store")) for i, each in enumerate((log, renamed)))
    assert one.titles == two.titles
    assert (one.item == two.item).all()
    assert draw_candidates(one.rows("test")).hash == draw_candidates(two.rows("test")).hash


def test_events_of_one_instant_stand_in_an_order_of_their_own(tmp_path: Path):
    log = title_log()
    tied = EventLog(log.schema, log.events.with_columns(time=pl.lit(5)), log.profiles, log.items)
    turned = EventLog(log.schema, log.events.with_columns(time=pl.lit(5)).reverse(), log.profiles, log.items)
    one, two = (read_sequences(ingest(each, tmp_path / f"{i}.store")) for i, each in enumerate((tied, turned)))
    order = [two.users.index(user) for user in one.users]
    for i, j in enumerate(order):
        assert (one.item[slice(*one.offsets[i : i + 2])] == two.item[slice(*two.offsets[j : j + 2])]).all()
    other = read_sequences(Store.open(tmp_path / "0.store"), tie_seed=1)
    assert (other.item != one.item).any()


def test_a_store_without_titles_or_the_mark_is_refused(tmp_path: Path):
    log = title_log()
    bare = {key: value for key, value in SCHEMA.items() if key not in ("items", "profile")}
    store = ingest(EventLog(Schema.parse(bare), log.events), tmp_path / "bare.store")
    with pytest.raises(SchemaError, match="column title"):
        read_sequences(store)
    with pytest.raises(SchemaError, match="'hidden'"):
        read_sequences(ingest(log, tmp_path / "whole.store"), unseen="hidden")


@pytest.mark.parametrize("kind", ["uniform", "popular"])
def test_candidates_are_distinct_and_outside_the_record(prepared: Prepared, kind: str):
    s = prepared.sequences
    rows = s.rows("test")
    drawn = draw_candidates(rows, kind=kind)  # pyright: ignore
    assert (np.take_along_axis(drawn.items, drawn.slot[:, None], axis=1)[:, 0] == rows.target).all()
    for i, listed in enumerate(drawn.items):
        record = set(s.item[s.offsets[rows.user[i]] : s.offsets[rows.user[i] + 1]])
        assert len(set(listed)) == 20
        assert set(listed) & record == {rows.target[i]}
    assert len(np.unique(drawn.slot)) > 8


def test_candidates_do_not_depend_on_the_order_of_rows(prepared: Prepared):
    rows = prepared.sequences.rows("train")
    whole, some = draw_candidates(rows, seed=4), np.array([7, 3, 11])
    assert (draw_candidates(rows.take(some), seed=4).items == whole.items[some]).all()
    assert (draw_candidates(rows, seed=5).items != whole.items).any()
    one, two = (epoch_candidates(rows, seed=0, epoch=epoch).items for epoch in (0, 1))
    assert (one != two).any()


def test_popular_candidates_are_more_popular(prepared: Prepared):
    s, rows = prepared.sequences, prepared.sequences.rows("test")
    means = [s.popularity[draw_candidates(rows, kind=kind).items].mean() for kind in ("uniform", "popular")]
    assert means[1] > means[0]


def test_a_changed_file_of_candidates_is_an_error(prepared: Prepared, tmp_path: Path):
    drawn = prepared.candidates()
    with np.load(prepared.path / "uniform-test.npz") as found:
        values = dict(found)
    values["slot"] = (values["slot"] + 1) % 20
    np.savez(tmp_path / "bad.npz", **values)
    with pytest.raises(FingerprintError, match="other candidates do not compare"):
        Candidates.load(tmp_path / "bad.npz")
    with pytest.raises(FingerprintError):
        drawn.check("0" * 64)
    with pytest.raises(ArtifactError, match="file of candidates"):
        Candidates.load(tmp_path / "none.npz")
    other = Sequences(("a",) * 2, ("a", "b"), ("u",), np.array([0, 2]), np.array([0, 1], np.int32), np.ones(1, bool))
    with pytest.raises(FingerprintError, match="prepare again"):
        drawn.rows(other)


def test_preparing_twice_gives_the_same_files(prepared: Prepared, tmp_path: Path):
    store = ingest(title_log(), tmp_path / "titles.store")
    again = prepare(store.path, tmp_path / "again", unseen="unseen")
    assert again.facts == prepared.facts
    assert len(again.facts["candidates"]) == 4
    log = Store.open(again.store)
    assert log.n_users == 21


def test_too_few_items_to_draw_from_are_said(tmp_path: Path):
    store = ingest(title_log(n_items=25), tmp_path / "few.store")
    with pytest.raises(ConfigError, match="19 items outside"):
        draw_candidates(read_sequences(store).rows("test"))
