"""Threads: every line is kept or counted. The world: its posterior is true. Stats.SE: nothing of the end."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import DiskError, SourceError
from habitus.data.sources.persona_stats_se import AS_OF_END, LABELS, instants, stats_events
from habitus.data.sources.persona_threads import read_threads, text_keys
from habitus.data.sources.persona_world import (
    ACTIONS,
    FLAGS,
    PersonaWorld,
    PersonaWorldConfig,
    write_persona_world,
)

POST = {"user_id": "a", "relative_integer_time": 1, "text": "hello"}


def act(rank: int | None = 5, **flags: object) -> dict:
    return {"user_id": "b", "relative_integer_time": rank, "actions": flags}


def line(*messages: object, cluster: object = 1) -> str:
    return json.dumps({"id": "x", "cluster_id": cluster, "thread": list(messages), "more": 1}, ensure_ascii=False)


def read(path: Path, lines: list[str | bytes], **options: object):
    raw = [each.encode() if isinstance(each, str) else each for each in lines]
    path.write_bytes(b"".join(each + b"\n" for each in raw))
    return list(read_threads(path, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{bad", "bad JSON"),
        ("", "empty line"),
        ("[1]", "bad JSON"),
        (line(POST, act(like=True)) + "more", "bad JSON"),
        (b"\xff{}", "not UTF-8"),
        (line(), "empty thread"),
        ('{"cluster_id": 1, "thread": 3}', "empty thread"),
        (line(POST, act(like=True), cluster=None), "no persona"),
        (line(POST, act(None, like=True)), "no rank"),
        (line({**POST, "relative_integer_time": "x"}, act(like=True)), "no rank"),
        (line({**POST, "actions": {"like": True}}, act(like=True)), "an action inside the thread"),
        (line(POST, act(like=False)), "no action"),
        (line(POST, act(like=True, follow=True)), "two actions on one message"),
        (line(POST, act(wave=True)), "unknown action"),
        (line(POST, act(post=True)), "post: answers nothing"),
        (line(POST), "post: answers nothing"),
        (line(act(like=True)), "no post"),
    ],
)
def test_a_line_that_cannot_be_used_is_counted_with_its_reason(tmp_path: Path, text: str | bytes, reason: str):
    good = line(POST, act(like=True, wave=False))
    (block,) = read(tmp_path / "t.jsonl", [good, text, good])
    assert block.rejected.rows() == [(2, reason)]
    assert block.rows["position"].sort().to_list() == [1, 3]
    assert block.n_read == 3


def test_texts_of_any_script_and_none_are_defined(tmp_path: Path):
    texts = ["שלום 😀 עולם", "مرحبا", "", None, "  ", "Ｆｕｌｌ", 5, "tab\there\nand there"]
    (block,) = read(tmp_path / "t.jsonl", [line({**POST, "text": text}, act(like=True)) for text in texts])
    rows = block.rows.sort("position")
    assert rows["post_text"].to_list() == [
        "שלום 😀 עולם",
        "مرحبا",
        "",
        "",
        "  ",
        "Ｆｕｌｌ",
        "5",
        "tab\there\nand there",
    ]
    assert [bool(key) for key in rows["post_key"].to_list()] == [True, True, False, False, False, True, True, True]
    assert rows["post_key"][5] == text_keys(pl.Series(["full"]))[0]


def test_what_a_thread_shows_is_read_from_its_place(tmp_path: Path):
    messages = [{"user_id": u, "relative_integer_time": t, "text": u} for u, t in (("r", 2), ("b", 4), ("p", 9))]
    (block,) = read(tmp_path / "t.jsonl", [line(*messages, act(20, reply=True))])
    row = block.rows.row(0, named=True)
    wanted = {"n_context": 3, "n_users": 3, "is_same_author": False, "is_root_author": False, "n_actor_before": 1,
              "rank_first": 2, "rank_post": 9, "rank_action": 20, "gap_mean": 3.5, "gap_sd": 1.5,
              "post_text": "p"}  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted


def test_a_message_without_flags_is_a_reply_and_lines_to_answer_need_none(tmp_path: Path):
    last = {"user_id": "b", "relative_integer_time": 5, "text": "so it is"}
    (block,) = read(tmp_path / "t.jsonl", [line(POST, last)])
    assert block.rows.select("action", "reply_text").rows() == [("reply", "so it is")]
    (block,) = read(tmp_path / "t.jsonl", [line(POST, last), line(POST, act(like=True, block=True))], is_labelled=False)
    assert block.rows["action"].to_list() == ["", ""]


def test_neither_order_nor_ids_nor_blocks_change_the_rows(tmp_path: Path):
    lines = [line({**POST, "text": f"t{i}"}, act(5 + i, **{ACTIONS[i % 12]: True})) for i in range(60)]
    (whole,) = read(tmp_path / "a.jsonl", lines)
    (turned,) = read(tmp_path / "b.jsonl", [each.replace('"a"', '"zz"').replace('"b"', '"yy"') for each in lines[::-1]])
    assert whole.rows.drop("position").equals(turned.rows.drop("position"))
    blocks = read(tmp_path / "c.jsonl", lines, block=700)
    assert len(blocks) > 3
    assert pl.concat([block.rows for block in blocks]).sort("content").equals(whole.rows.sort("content"))


def test_the_posterior_of_the_world_is_true():
    some = PersonaWorld(PersonaWorldConfig(n_threads=30_000, n_personas=5)).draw(0, 30_000)
    assert np.allclose(some.posterior.sum(axis=1), 1, atol=1e-5)
    for action in range(len(ACTIONS)):
        p, y = some.posterior[:, action].astype(float), some.label == action
        for low, high in ((0.0, 0.2), (0.2, 0.6), (0.6, 1.01)):
            at = (p >= low) & (p < high)
            if at.sum() > 50:
                error = np.sqrt((p[at] * (1 - p[at])).sum()) / at.sum()
                assert abs(y[at].mean() - p[at].mean()) < 4.5 * error + 1e-9


def test_the_file_of_the_world_holds_what_was_drawn(tmp_path: Path):
    config = PersonaWorldConfig(n_threads=3000, n_personas=3)
    folder = write_persona_world(tmp_path / "w", config)
    (block,) = read_threads(folder / "threads.jsonl")
    truth = pl.read_parquet(folder / "truth.parquet")
    assert not len(block.rejected)
    both = block.rows.join(truth, left_on="thread_id", right_on="id")
    assert len(both) == 3000
    assert (both["label"] == both["label_right"]).all()
    assert (both["rank_action"] > both["rank_post"]).all()
    assert ((both["reply_text"] != "") == both["action"].is_in(["reply", "quote", "post_update"])).all()
    first = json.loads((folder / "threads.jsonl").read_text("utf-8").splitlines()[0])
    assert set(first["thread"][-1]["actions"]) == set(FLAGS)
    again = write_persona_world(tmp_path / "v", config)
    assert (again / "threads.jsonl").read_bytes() == (folder / "threads.jsonl").read_bytes()
    with pytest.raises(DiskError):
        write_persona_world(folder, config)


def stats_folder(folder: Path, n: int = 60) -> Path:
    """Users who ask, and get a badge ten days later."""
    start = dt.datetime(2012, 5, 1)
    asked = [start + dt.timedelta(days=9 * i) for i in range(n)]
    posts = pl.DataFrame({"PostTypeId": [1] * n, "CreationDate": asked, "OwnerUserId": [i % 7 + 1 for i in range(n)],
                          "Score": list(range(n))})  # fmt: skip
    badges = pl.DataFrame({"UserId": [i % 7 + 1 for i in range(n)], "Date": [t + dt.timedelta(days=10) for t in asked]})
    users = pl.DataFrame({"Id": [*range(1, 8), -1], "CreationDate": [start] * 8, "Reputation": [1] * 8})
    for name, table in (("posts", posts), ("badges", badges), ("users", users)):
        table.write_parquet(folder / f"{name}.parquet")
    return folder


def test_columns_written_at_the_end_of_a_dump_are_refused(tmp_path: Path):
    folder = stats_folder(tmp_path)
    for name in AS_OF_END:
        with pytest.raises(SourceError, match=name):
            stats_events(folder, more=[name])
    (table,) = instants(folder)
    assert not set(table.columns) & set(AS_OF_END)
    assert {LABELS[code] for code in table["label"].unique()} >= {"badge", "none"}


def test_later_events_leave_earlier_rows_as_they_were(tmp_path: Path):
    folder = stats_folder(tmp_path)
    (before,) = instants(folder)
    badges = pl.read_parquet(folder / "badges.parquet")
    late = pl.DataFrame({"UserId": [1, 2], "Date": [dt.datetime(2014, 9, 1)] * 2})
    pl.concat([badges, late]).write_parquet(folder / "badges.parquet")
    (after,) = instants(folder)
    kept = before.filter(pl.col("part") < 2)
    same = kept.select("thread_id").join(after, on="thread_id", how="left", maintain_order="left")
    assert len(kept) > 10
    assert same.drop("label").equals(kept.drop("label"))
