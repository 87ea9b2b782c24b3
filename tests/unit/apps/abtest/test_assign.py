"""Assignment: one hash, whoever computes it; ramps that only add; layers that do not touch."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import duckdb
import numpy as np
import polars as pl
import pytest

from habitus.apps.abtest.assign import arm_sql, arms, assign, bucket_sql, buckets, check_layer
from habitus.apps.abtest.declare import Experiment
from habitus.core.errors import ConfigError
from tests.unit.data.test_sources import postgresql  # noqa: F401 - a fixture: a server of our own

METRIC = {"name": "m", "role": "primary", "kind": "binary", "value": "m", "lift": 0.1, "baseline": 0.1}


def experiment(**changes) -> Experiment:
    values = {"name": "t", "salt": "it's salt", "start": "2024-01-01", "metrics": [METRIC]}
    return Experiment.parse(values | changes)


def reference(salt: str, unit: str) -> int:
    return int(hashlib.md5(f"{salt}:{unit}".encode()).hexdigest()[:8], 16) * 10_000 >> 32


def test_buckets_equal_hashlib_on_100_000_units():
    units = [f"user é {i}" for i in range(100_000)]
    assert buckets(units, "it's salt").tolist() == [reference("it's salt", unit) for unit in units]


def test_whole_numbers_are_their_text():
    assert (
        buckets(np.array([7, 8]), "s").tolist()
        == buckets(["7", "8"], "s").tolist()
        == [reference("s", "7"), reference("s", "8")]
    )


def test_the_query_for_duckdb_assigns_100_000_users_alike():
    known = experiment(buckets=(1000, 9000))
    users = pl.DataFrame({"user_id": [f"u{i}" for i in range(100_000)]})
    with duckdb.connect() as engine:
        engine.register("users", users.to_arrow())
        rows = engine.execute(arm_sql(known, 0.2)).fetchall()
    twin = pl.DataFrame(rows, schema=["user_id", "arm"], orient="row").drop_nulls("arm").sort("user_id")
    own = assign(known, users["user_id"], 0.2).sort("user")
    assert len(own) == pytest.approx(100_000 * 0.8 * 0.4, rel=0.03)
    assert twin["user_id"].to_list() == own["user"].to_list()
    assert twin["arm"].to_list() == own["arm"].to_list()


def test_the_query_for_postgresql_is_this_one():
    assert bucket_sql("a'b", "id", "postgresql") == (
        "(('x' || substr(md5('a''b:' || id::text), 1, 8))::bit(32)::bigint * 10000) >> 32"
    )
    assert 'SELECT "user"' in arm_sql(experiment(), unit="user", dialect="postgresql")


def test_another_process_assigns_alike():
    code = "from habitus.apps.abtest.assign import buckets; print(buckets(['anna', 'bert'], 'x').tolist())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(buckets(["anna", "bert"], "x").tolist())


def test_a_ramp_only_adds_and_arms_stay_equal():
    bucket = np.arange(10_000)
    before = arms(bucket, 0.01)
    for share in (0.05, 0.2, 0.5):
        after = arms(bucket, share)
        assert (after[before >= 0] == before[before >= 0]).all()
        assert (after == 1).sum() == (after == 0).sum() == share * 10_000
        before = after


def test_salts_are_independent():
    units = np.arange(50_000)
    one, other = arms(buckets(units, "one"), 0.5), arms(buckets(units, "other"), 0.5)
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(50_000)


def test_a_layer_refuses_shared_buckets():
    check_layer([experiment(buckets=(0, 5000)), experiment(buckets=(5000, 10_000)), experiment(salt="other")])
    with pytest.raises(ConfigError, match="disjoint buckets"):
        check_layer([experiment(buckets=(0, 5001)), experiment(buckets=(5000, 10_000))])


@pytest.mark.parametrize(
    ("units", "words"), [([1.5], "text or whole"), (["a", None], "a unit in every row"), (["a", "a"], "each unit once")]
)
def test_units_that_cannot_be_hashed_alike_are_refused(units, words):
    with pytest.raises(ConfigError, match=words):
        assign(experiment(), units)


def test_a_share_above_one_half_is_refused():
    with pytest.raises(ConfigError, match="share per arm"):
        assign(experiment(), ["a"], 0.6)


def test_postgresql_assigns_alike(postgresql: str):  # noqa: F811
    known, users = experiment(), [f"user é {i}" for i in range(5000)]
    source = '(SELECT unnest(%s) AS "user")' % ("ARRAY[" + ", ".join(f"'{user}'" for user in users) + "]")
    query = arm_sql(known, 0.3, unit="user", table=f"{source} AS people", dialect="postgresql")
    import adbc_driver_postgresql.dbapi as driver

    with driver.connect(postgresql) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        rows = cursor.fetchall()
    found = pl.DataFrame(rows, schema=["user", "arm"], orient="row").drop_nulls("arm").sort("user")
    own = assign(known, users, 0.3).sort("user")
    assert found["user"].to_list() == own["user"].to_list()
    assert found["arm"].to_list() == own["arm"].to_list()
