"""The four raw files: what is read, what is rejected and counted, what is refused; and the world that writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from habitus.cli.main import app
from habitus.core.errors import ConfigError, IngestError, SourceError, StoreError
from habitus.data.sources.taobao_ad import FIRST_IMPRESSION_DAY, UTC_OFFSET, open_taobao_ad, read_taobao_ad
from habitus.data.sources.taobao_ad_world import PARTS, write_taobao_ad_world

T = FIRST_IMPRESSION_DAY * 86_400 - UTC_OFFSET + 3600
FILES = {
    "raw_sample": f"""user,time_stamp,adgroup_id,pid,nonclk,clk
7,{T + 50},2,430548_1007,1,0
5,{T},1,430539_1007,0,1
5,{T},9,430539_1007,1,0
""",
    "ad_feature": "adgroup_id,cate_id,campaign_id,customer,brand,price\n1,10,3,4,NULL,9.5\n2,11,3,4,20,0\n",
    "user_profile": (
        "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
        "new_user_class_level \n5,1,2,1,3,,3,0,\n"
    ),
    "behavior_log": f"user,time_stamp,btag,cate,brand\n5,{T - 5},pv,10,20\n5,{T},buy,10,20\n5,{T - 9},cart,11,21\n",
}


def _write(folder: Path, **changes: str) -> Path:
    folder.mkdir()
    for name, text in (FILES | changes).items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def _read(tmp_path: Path, *, max_rejected: float = 0.9, **changes: str):
    return read_taobao_ad(_write(tmp_path / "raw", **changes), tmp_path / "out", max_rejected=max_rejected, threads=1)


def _counts(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]


def test_rows_come_by_user_and_time_with_what_belongs_to_them(tmp_path: Path) -> None:
    shown = _read(tmp_path)
    assert shown.ids["user"].tolist() == [5, 5, 7]
    assert (shown.label.tolist(), shown.source.tolist(), shown.time.tolist()) == ([1, 0, 0], [1, 2, 0], [T, T, T + 50])
    # NULL brand is 0; ad 9 has no features; user 7 has neither profile nor behaviours
    assert (shown.cate.tolist(), shown.brand.tolist()) == ([10, 0, 11], [0, 0, 20])
    assert np.isnan(shown.price).tolist() == [False, True, False]
    assert shown.has_profile.tolist() == [True, True, False]
    # value + 2, blank 1, no profile 0; the last header of the file ends in a space
    assert shown.ids["pvalue_level"].tolist() == [1, 1, 0]
    assert shown.ids["new_user_class_level"].tolist() == [1, 1, 0]
    assert shown.ids["age_level"].tolist() == [5, 5, 0]
    assert (shown.log.time.tolist(), shown.log.offsets.tolist()) == ([T - 9, T - 5, T], [0, 3, 3])
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["impressions_without_ad_features"] == 1
    assert not list((tmp_path / "out").glob("work*"))


def test_columns_may_come_in_any_order(tmp_path: Path) -> None:
    shuffled = f"clk,pid,extra,user,adgroup_id,nonclk,time_stamp\n0,430548_1007,x,7,2,1,{T + 50}\n"
    shown = _read(tmp_path, raw_sample=shuffled)
    assert (shown.ids["adgroup"].tolist(), shown.label.tolist(), shown.time.tolist()) == ([2], [0], [T + 50])


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("behavior_log", f"5,{T},stroll,10,20", "unknown btag"),
        ("behavior_log", "5,0,pv,10,20", "time out of range"),
        ("behavior_log", f",{T},pv,10,20", "no user"),
        ("behavior_log", f"5,{T},pv,ten,20", "broken line: cast"),
        ("behavior_log", f"5,{T},pv", "broken line: missing columns"),
        ("raw_sample", f"5,{T},1,430539_1007,1,1", "nonclk + clk is not 1"),
        ("raw_sample", f"5,{T},1,430539_1007,0,0", "nonclk + clk is not 1"),
        ("raw_sample", f"5,{T - 7200},1,430539_1007,0,1", "time out of range"),
        ("raw_sample", f"5,{T},,430539_1007,0,1", "no ad"),
        ("ad_feature", ",1,1,1,1,1", "no adgroup_id"),
    ],
)
def test_unusable_rows_are_rejected_and_counted(tmp_path: Path, file: str, line: str, reason: str) -> None:
    _read(tmp_path, **{file: FILES[file] + line + "\n"})
    count = _counts(tmp_path)[file]
    assert count == {"read": count["kept"] + 1, "kept": FILES[file].count("\n") - 1, "rejected": {reason: 1}}
    rejected = pl.read_parquet(tmp_path / "out" / "rejected.parquet")
    assert rejected.select("file", "reason").rows() == [(file, reason)]


def test_too_many_rejected_rows_stop_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match="unknown btag"):
        _read(tmp_path, max_rejected=0.1, behavior_log=FILES["behavior_log"].replace("cart", "carry"))
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_or_column_is_named(tmp_path: Path, name: str) -> None:
    folder = _write(tmp_path / "raw")
    column = FILES[name].split("\n")[0].split(",")[1]
    (folder / f"{name}.csv").write_text(FILES[name].replace(column, "other", 1))
    with pytest.raises(SourceError, match=f"a column '{column}'"):
        read_taobao_ad(folder, tmp_path / "out")
    (folder / f"{name}.csv").unlink()
    with pytest.raises(SourceError, match=f"a file {name}.csv"):
        read_taobao_ad(folder, tmp_path / "out")


def test_no_behaviours_of_use_are_an_error_and_other_folders_no_store(tmp_path: Path) -> None:
    with pytest.raises(IngestError):
        _read(tmp_path, behavior_log="user,time_stamp,btag,cate,brand\n5,1,pv,1,1\n")
    with pytest.raises(StoreError, match="read_taobao_ad"):
        open_taobao_ad(tmp_path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_taobao_ad_world(tmp_path_factory.mktemp("w") / "world", n_users=600, n_ads=200)


def test_a_world_has_the_parts_it_says(world: Path) -> None:
    truth = pl.read_parquet(world / "truth.parquet")
    parts = truth.select(PARTS).to_numpy()
    assert parts.std(axis=0) == pytest.approx([0.358, 0.242, 0.265, 0.327, 0.358], abs=0.02)
    assert np.abs(np.corrcoef(parts.T) - np.eye(5)).max() < 1e-6
    logit = truth["b"].to_numpy() + parts.sum(axis=1)
    assert truth["p"].to_numpy() == pytest.approx(1 / (1 + np.exp(-logit)))
    assert truth["p"].mean() == pytest.approx(0.05, abs=0.004)
    assert 0 < truth["is_drifting"].mean() < 0.5


def test_the_category_alone_tells_nothing_of_the_later_parts(world: Path) -> None:
    """Else an additive model would see part of them, and could rise above its ceiling."""
    ads = pl.read_csv(world / "ad_feature.csv", columns=["adgroup_id", "cate_id"])
    shown = pl.read_csv(world / "raw_sample.csv", columns=["adgroup_id"]).join(ads, on="adgroup_id", how="left")
    parts = pl.read_parquet(world / "truth.parquet", columns=list(PARTS)).with_columns(cate=shown["cate_id"])
    means = parts.select(pl.col(PARTS).mean().over("cate"))
    assert means["s1"].std() > 0.1
    assert [means[name].std() for name in PARTS[1:]] == pytest.approx([0.0] * 4, abs=0.02)


def test_parts_may_be_left_out(tmp_path: Path) -> None:
    words = f"ctr world --out {tmp_path / 'w'} --users 60 --ads 60 --parts 2"
    assert CliRunner().invoke(app, words.split()).exit_code == 0
    spread = pl.read_parquet(tmp_path / "w" / "truth.parquet").select(pl.col(PARTS).std()).row(0)
    assert spread[0] > 0.3
    assert spread[1] > 0.2
    assert spread[2:] == (0.0, 0.0, 0.0)


def test_a_world_is_read_back_whole(world: Path, tmp_path: Path) -> None:
    shown = read_taobao_ad(world, tmp_path / "out", threads=1)
    truth = pl.read_parquet(world / "truth.parquet")
    assert len(shown) == truth.height
    assert shown.truth is not None
    assert np.array_equal(shown.truth, truth["p"].to_numpy()[shown.source])
    clicks = (shown.label - shown.truth).sum() / np.sqrt((shown.truth * (1 - shown.truth)).sum())
    assert abs(clicks) < 4  # labels follow the truth
    rejected = _counts(tmp_path)["behavior_log"]["rejected"]
    assert list(rejected) == ["time out of range"]
    assert len(np.unique(shown.day)) == 8
    assert (np.diff(shown.log.offsets) == 0).any()
    assert not shown.has_profile.all()
    assert (shown.brand == 0).any()
    assert (np.diff(shown.log.time.astype(np.int64)) == 0).any()  # bursts within a second
    again = read_taobao_ad(world, tmp_path / "again", threads=2)
    for name in ("time", "kind", "cate", "brand", "run_start", "repeats", "offsets"):
        assert np.array_equal(getattr(shown.log, name), getattr(again.log, name)), name


def test_the_same_seed_gives_the_same_bytes_and_a_typo_is_an_error(tmp_path: Path) -> None:
    a, b, c = (
        write_taobao_ad_world(tmp_path / name, n_users=20, n_ads=40, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for name in FILES:
        assert (a / f"{name}.csv").read_bytes() == (b / f"{name}.csv").read_bytes()
    assert (a / "raw_sample.csv").read_bytes() != (c / "raw_sample.csv").read_bytes()
    assert (a / "user_profile.csv").read_text().split("\n")[0].endswith("new_user_class_level ")
    with pytest.raises(ConfigError, match="n_adds"):
        write_taobao_ad_world(tmp_path / "d", n_adds=3)


def test_a_clean_world_has_no_faults(tmp_path: Path) -> None:
    folder = write_taobao_ad_world(tmp_path / "w", n_users=60, n_ads=100, n_events=40, defects=False)
    shown = read_taobao_ad(folder, tmp_path / "out", max_rejected=0.0, threads=1)
    assert shown.has_profile.all()
    assert (shown.brand > 0).all()
    assert (shown.price > 0).all()
    assert (shown.ids["pvalue_level"] > 1).all()
    assert _counts(tmp_path)["behavior_log"]["rejected"] == {}
