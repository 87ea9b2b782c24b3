"""FAR-Trans files: what cannot be used is counted, what was made later is found; the world follows its law."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.core.errors import ConfigError, SourceError
from habitus.data.sources.far_trans import FILES, made_from_sales, read_far_trans
from habitus.data.sources.far_trans_world import REASONS, read_truth, write_far_trans_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_far_trans_world(tmp_path_factory.mktemp("far") / "w", n_customers=60, seed=3)


@pytest.fixture
def copy(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world, tmp_path / "copy"))


def change(folder: Path, name: str, edit) -> None:
    path = folder / f"{name}.csv"
    edit(pl.read_csv(path, infer_schema=False)).write_csv(path)


def test_a_clean_market_leaves_nothing_out(world):
    source = read_far_trans(world)
    assert not any(source.left_out.values())
    assert (np.diff(source.customer) >= 0).all()
    assert source.close.shape == (1281, 806)
    assert source.assets["category"].value_counts().sort("category")["count"].to_list() == [209, 312, 285]


@pytest.mark.parametrize("name", list(FILES))
def test_a_missing_file_or_column_is_an_error(copy, name):
    change(copy, name, lambda table: table.drop(FILES[name][1]))
    with pytest.raises(SourceError, match=FILES[name][1]):
        read_far_trans(copy)
    (copy / f"{name}.csv").unlink()
    with pytest.raises(SourceError, match=f"{name}.csv"):
        read_far_trans(copy)


def test_bad_rows_are_counted_by_reason(copy):
    source = read_far_trans(copy)
    unpriced = str(source.isins[source.asset[0]])
    change(copy, "close_prices", lambda table: table.filter(pl.col("ISIN") != unpriced))
    lonely = {"customerID": "ZZZ", "customerType": "Mass", "riskLevel": "Income", "investmentCapacity": "CAP_LT30K",
              "lastQuestionnaireDate": "2019-01-01", "timestamp": "2019-01-01"}  # fmt: skip
    change(copy, "customer_information", lambda table: pl.concat([table, pl.DataFrame(lonely)]))
    bad = pl.DataFrame({"customerID": ["C0000001", "bad id'", "C0000001"], "ISIN": ["XX0000000000"] * 3,
                        "transactionID": ["900001", "900002", "900003"], "transactionType": ["Buy", "Buy", "Gift"],
                        "timestamp": ["2020-01-02"] * 3, "totalValue": ["1"] * 3, "units": ["1"] * 3,
                        "channel": [""] * 3, "marketID": [""] * 3})  # fmt: skip
    change(copy, "transactions", lambda table: pl.concat([table, bad, table.head(2)]))
    found = read_far_trans(copy)
    assert found.left_out["asset without a price"] == 1
    assert found.left_out["customer without a transaction"] >= 1
    assert found.left_out["transaction: ids, type or date unreadable"] == 2
    n_unpriced = int((source.asset == source.asset[0]).sum())
    assert found.left_out["transaction of an asset without a price"] >= 1 + n_unpriced
    assert found.left_out["transaction named twice"] >= 1
    assert "ZZZ" in found.customer_ids


def test_buys_made_from_later_sales_are_found(tmp_path):
    folder = write_far_trans_world(tmp_path / "leak", n_customers=60, seed=3, opening="fartrans")
    kept, found = read_far_trans(folder, opening="keep"), read_far_trans(folder)
    n = found.left_out["opening buy made from later sales"]
    with np.load(folder / "truth.npz") as truth:
        n_made = int((truth["reason"] == REASONS.index("opening")).sum())
    assert n_made > 10
    assert n_made <= n <= 1.1 * n_made  # an honest buy of the first day that was sold to the last unit looks the same
    assert len(kept.day) - len(found.day) == n
    assert made_from_sales(kept).sum() == n


def test_a_profile_is_not_known_before_its_questionnaire(world):
    source = read_far_trans(world)
    day = int(source.customers["asked"].max()) - 1  # type: ignore[arg-type]
    profile = source.profile_at(day)
    late = source.customers.filter(pl.col("asked") > day)["customer"].to_list()
    assert late
    assert len(profile) == len(source.customer_ids)
    assert profile.filter(pl.col("customer").is_in(late))["risk"].null_count() == len(late)
    assert not source.customers["risk"].str.starts_with("Predicted_").any()


def test_until_forgets_what_is_later(world):
    source = read_far_trans(world)
    day = int(source.days[700])
    past = source.until(day)
    assert past.days[-1] == day
    assert past.day.max() <= day
    assert len(past.day) < len(source.day)
    np.testing.assert_array_equal(past.close, source.close[:701])


def test_the_same_seed_gives_the_same_files(world, tmp_path):
    again = write_far_trans_world(tmp_path / "again", n_customers=60, seed=3)
    for name in ("transactions", "customer_information", "asset_information"):
        assert (again / f"{name}.csv").read_bytes() == (world / f"{name}.csv").read_bytes()
    other = write_far_trans_world(tmp_path / "other", n_customers=60, seed=4)
    assert (other / "transactions.csv").read_bytes() != (world / "transactions.csv").read_bytes()


def test_buys_follow_the_stated_shares(world):
    with np.load(world / "truth.npz") as truth:
        reason, p = truth["reason"], truth["probability"]
    buys = reason > 1
    share = [float((reason[buys] == REASONS.index(name)).mean()) for name in ("held", "rule", "taste")]
    assert 0.004 < share[0] < 0.12  # a way that is not open gives its share to taste
    assert 0.1 < share[1] < 0.32
    assert (p[buys] > 0).all()
    assert (p <= 1).all()
    assert json.loads((world / "world.json").read_text())["rows"]["transactions"] == len(reason)


def test_a_real_folder_has_no_truth_and_a_world_no_unknown_field(tmp_path):
    assert read_truth(tmp_path) is None
    with pytest.raises(ConfigError):
        write_far_trans_world(tmp_path / "w", n_customers=5, n_custmers=3)
