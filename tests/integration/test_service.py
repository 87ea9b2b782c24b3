"""The service as its users meet it: equal to the batch path, strict, limited, replaceable, killable."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from habitus.core.errors import HabitusError
from habitus.data.calendar_edits import Edits
from habitus.serve import schemas
from habitus.serve.client import Client
from habitus.tasks.embed import embed
from habitus.tasks.generate import generate
from habitus.tasks.predict import predict
from habitus.tasks.run import open_run
from habitus.tasks.whatif import whatif
from habitus.testing.runs import CUTOFF
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]
DAYS, EVENTS, LIVES = "tiny_world", "tiny_shop", "tiny_lives"
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


def apart(one, two):
    """How far two vectors are apart, beside the length of the second."""
    return np.linalg.norm(np.subtract(one, two)) / np.linalg.norm(two)


@pytest.fixture(scope="module")
def service(day_run, serve_runs):
    with serve_runs([day_run], cutoff=CUTOFF, window_ms=5) as found:
        yield found


@pytest.fixture(scope="module")
def client(service):
    with Client(service[0]) as found:
        yield found


@pytest.fixture(scope="module")
def shop(event_run, serve_runs):
    with serve_runs([event_run], window_ms=5) as (address, _), Client(address) as found:
        yield found


@pytest.fixture(scope="module")
def lives(life_run, serve_runs):
    with serve_runs([life_run], window_ms=5) as (address, _), Client(address) as found:
        yield found


@pytest.fixture(scope="module")
def users(day_run) -> list[str]:
    return open_run(day_run).store.users["user"].cast(pl.String).to_list()


def coming(day_run: Path, kind: str) -> str:
    table = open_run(day_run).store.calendar.events.filter(
        pl.col("type") == kind, pl.col("start") > pl.lit(CUTOFF).str.to_date()
    )
    return table["event"][0]


def history_of(run: Path, user: str, last_day: int) -> dict[str, Any]:
    """Write a user's past as a request would."""
    store = open_run(run).store
    number = store.users["user"].cast(pl.String).to_list().index(user)
    for i in range(store.n_shards):
        shard = store.shard(i)
        local = number - shard.first_user
        if 0 <= local < shard.n_users:
            rows = [r for r in range(shard.offsets[local], shard.offsets[local + 1]) if shard.day[r] <= last_day]
            events = [
                {"time": f"{np.datetime64(int(shard.time[r]), 'us')}+00:00", "type": store.types[shard.type[r]],
                 **({"item": store.items[shard.item[r]]} if shard.item is not None and store.items else {}),
                 "amounts": {n: float(v[r]) for n, v in shard.amounts.items() if np.isfinite(v[r])}}
                for r in rows
            ]  # fmt: skip
            audiences = store.calendar.audiences.filter(user=user)["audience"].to_list()
            profiles = store.profiles
            profile = {} if profiles is None else {n: profiles[n][number] for n in profiles.columns[1:]}
            profile = {n: v if isinstance(v, int | float | str) or v is None else str(v) for n, v in profile.items()}
            return {"user": "new", "events": events, "audiences": audiences, "profile": profile}
    raise AssertionError(user)


class Once:
    """A client that closes its connection after one question."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.make = lambda: Client(*given, **named)

    def __getattr__(self, verb: str) -> Any:
        def asked(*given: Any, **named: Any) -> Any:
            with self.make() as client:
                return getattr(client, verb)(*given, **named)

        return asked


def values(answer: dict[str, Any]) -> np.ndarray:
    return np.array([[target["value"] for target in user["targets"]] for user in answer["users"]])


# equal to the batch path --------------------------------------------------------------------------------------------


def test_many_small_questions_answer_what_the_batch_answers(client, service, day_run, users):
    batch = predict(day_run, cutoff=CUTOFF)
    expected = batch.pivot("target", index="user", values="value", maintain_order=True)
    names = [c for c in expected.columns if c != "user"]
    table = dict(zip(expected["user"].cast(pl.String), expected.select(names).rows()))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda user: Once(service[0]).predict(DAYS, users=[user]), users[:24]))
    for user, answer in zip(users, found):
        assert [t["target"] for t in answer["users"][0]["targets"]] == names
        np.testing.assert_allclose(values(answer)[0], table[user], **CLOSE)
    whole = client.predict(DAYS, users=users)
    np.testing.assert_allclose(values(whole), [table[user] for user in users], **CLOSE)
    spend = [t["quantiles"]["q90"] for u in whole["users"] for t in u["targets"] if t["target"] == "spend"]
    np.testing.assert_allclose(spend, batch.filter(target="spend")["q90"], rtol=1e-5, atol=1e-5)


def test_a_history_in_the_request_answers_as_the_user_of_the_store(client, day_run, users):
    last = (np.datetime64(CUTOFF) - np.datetime64("1970-01-01")).astype(int)
    for user in users[:6]:
        told = client.predict(DAYS, histories=[history_of(day_run, user, last)])
        np.testing.assert_allclose(values(told), values(client.predict(DAYS, users=[user])), **CLOSE)
    mail = [{"name": "no mail", "edits": [{"edit": "drop", "event": coming(day_run, "mail")}]}]
    one, two = (
        client.whatif(DAYS, mail, **who)
        for who in ({"histories": [history_of(day_run, users[0], last)]}, {"users": users[:1]})
    )
    pairs = zip(one["users"][0]["outcomes"], two["users"][0]["outcomes"])
    for mine, theirs in pairs:
        assert mine["difference"] == pytest.approx(theirs["difference"], rel=1e-5, abs=1e-6)


def test_what_if_answers_what_the_batch_answers(client, day_run, users, tmp_path):
    edit = {"edit": "drop", "event": coming(day_run, "sale")}
    whatif(
        day_run, edits=[Edits.build([edit], where="no sale.csv")], cutoff=CUTOFF, placebos=0, with_importance=False,
        out=tmp_path / "batch.parquet",
    )  # fmt: skip
    batch = pl.read_parquet(tmp_path / "batch.parquet").with_columns(pl.col("user").cast(pl.String))
    told = client.whatif(DAYS, [{"name": "no sale", "edits": [edit]}], users=users[:30])
    rows = [{"user": u["user"]} | o for u in told["users"] for o in u["outcomes"] if o["calendar"] == "no sale"]
    both = pl.DataFrame(rows).join(
        batch.filter(pl.col("calendar") != "as planned"), on=["user", "target"], suffix="_batch"
    )
    assert both.height == 60
    size = np.maximum(both["value_batch"].abs().to_numpy(), 1)
    for name in ("value", "difference", "by_days"):
        one, two = (both[n].fill_null(0).to_numpy() for n in (name, f"{name}_batch"))
        assert np.abs((one - two) / size).max() < 1e-6, "beside the size of what is compared"
    assert both["difference"].abs().max() > 0
    assert told["changes"][0]["what"] == "dropped"


def test_totals_are_the_sums_of_the_batch(client, day_run):
    edit = {"edit": "drop", "event": coming(day_run, "sale")}
    section = whatif(
        day_run, edits=[Edits.build([edit], where="e.csv")], cutoff=CUTOFF, placebos=0, with_importance=False
    )
    told = client.totals(DAYS, [{"name": "e", "edits": [edit]}])
    for mine, theirs in zip(told["rows"], section["rows"]):
        assert mine["total"] == pytest.approx(theirs["total"], rel=1e-6)
        assert mine["difference"] == pytest.approx(theirs["difference"], abs=1e-4)
        assert mine["total_low"] == pytest.approx(theirs["total_low"])
    np.testing.assert_allclose(told["daily"][0]["values"]["e"], section["daily"][0]["values"]["e"], rtol=1e-6)
    again = client.totals(DAYS, [{"name": "e", "edits": [edit]}])
    assert again == told, "the kept past gives the same answer, bit for bit"


def test_a_run_of_events_answers_what_the_batch_answers(shop, event_run, tmp_path):
    day = open_run(event_run).store.last_day
    batch, people = predict(event_run, top=2), ["u007", "u003", "u007"]
    told = shop.next(EVENTS, users=people, top=2)
    assert [user["user"] for user in told["users"]] == people
    for user in told["users"]:
        mine = batch.filter(user=user["user"])
        assert [v["value"] for v in user["values"]] == mine["type"].to_list()
        np.testing.assert_allclose([v["probability"] for v in user["values"]], mine["probability"], **CLOSE)
    history = history_of(event_run, "u003", day)
    del history["audiences"]
    new = shop.next(EVENTS, histories=[history], top=2)["users"][0]["values"]
    for mine, theirs in zip(new, told["users"][1]["values"]):
        assert mine["probability"] == pytest.approx(theirs["probability"], abs=1e-6)
    vectors = embed(event_run).filter(user="u003")["vector"].to_numpy()
    assert apart(shop.embed(EVENTS, users=["u003"])["users"][0]["vector"], vectors[0]) < 1e-6
    generate(event_run, out=tmp_path / "f.parquet", days=14, users=["u003", "u007"], seed=3)
    drawn = list(shop.generate(EVENTS, ["u003", "u007"], days=14, seed=3))
    assert drawn
    assert [event["type"] for event in drawn] == pl.read_parquet(tmp_path / "f.parquet")["type"].to_list()


def test_new_users_get_the_futures_of_a_user_with_their_past(shop, event_run):
    known = list(shop.generate(EVENTS, ["u003", "u007"], days=14, seed=3))
    last = open_run(event_run).store.last_day
    histories = [history_of(event_run, user, last) | {"user": user} for user in ("u003", "u007")]
    assert known
    assert list(shop.generate(EVENTS, histories=histories, days=14, seed=3)) == known
    history = histories[0]
    late = history | {"events": [history["events"][0] | {"time": "2031-01-01"}]}
    for body, said in (({"histories": [late]}, "on or before"), ({}, "users, or histories")):
        with pytest.raises(HabitusError, match=said):
            list(shop.generate(EVENTS, days=5, **body))


def test_a_run_of_lives_answers_what_the_batch_answers(lives, life_run):
    table = embed(life_run)
    names = table["user"].to_list()
    flat = np.stack(table["flat"].to_list())
    told = lives.embed(LIVES, users=["u007", "u003", "u007"])["users"]
    for one in told:
        assert apart(one["vector"], flat[names.index(one["user"])]) < 1e-6
    history = history_of(life_run, "u003", open_run(life_run).store.last_day)
    new = lives.embed(LIVES, histories=[history])["users"][0]["vector"]
    assert apart(new, flat[names.index("u003")]) < 1e-6
    alike = lives.similar(LIVES, "u003", top=4)
    cosine = flat @ flat[names.index("u003")]
    cosine[names.index("u003")] = -2
    assert [one["user"] for one in alike["users"]] == [names[i] for i in np.argsort(-cosine, kind="stable")[:4]]
    bought = {event["item"] for event in history["events"]}
    assert {one["interest"] for one in alike["interests"]} <= bought
    for one in alike["users"]:
        theirs = {e["item"] for e in history_of(life_run, one["user"], open_run(life_run).store.last_day)["events"]}
        assert one["n_shared"] == len(bought & theirs)
        assert set(one["shared"]) <= bought & theirs
    with pytest.raises(HabitusError, match="a run of user-days"):
        lives.predict(LIVES, users=["u003"])


def test_look_alikes_are_the_nearest_vectors(client, shop, day_run, users):
    table = embed(day_run, cutoff=CUTOFF)
    vectors = table["vector"].to_numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    told = client.similar(DAYS, users[5], top=4)["users"]
    cosine = vectors @ vectors[5]
    cosine[5] = -2
    names = table["user"].cast(pl.String).to_list()
    assert [one["user"] for one in told] == [names[i] for i in np.argsort(-cosine, kind="stable")[:4]]
    assert told[0]["score"] == pytest.approx(cosine.max(), abs=1e-5)
    assert len(shop.similar(EVENTS, "u003", top=3)["users"]) == 3


# refused ------------------------------------------------------------------------------------------------------------


def raw(address: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    text = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    kind = {"Content-Type": "application/json"}
    connection.request("GET" if body is None else "POST", path, text, kind | (headers or {}))
    response = connection.getresponse()
    found = response.read()
    connection.close()
    return response.status, json.loads(found) if found[:1] in b"{[" else found, response.headers


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("predict", {"users": ["nobody"]}, 404, "send their history"),
        ("predict", {}, 422, "users, or histories"),
        ("predict", {"users": ["1"], "nonsense": 1}, 422, "Extra inputs"),
        ("predict", b"{not json", 422, "JSON"),
        ("predict", {"histories": [{"user": "n", "events": [{"time": "2023-05-01", "type": "purchse"}]}]}, 422,
         "did you mean 'purchase'"),
        ("predict", {"histories": [{"user": "n", "events": [{"time": "2024-05-01", "type": "purchase"}]}]}, 422,
         "on or before"),
        ("predict", {"histories": [{"user": "n", "events": [{"time": "yesterday", "type": "purchase"}]}]}, 422,
         "dates"),
        ("totals", {"alternatives": [{"edits": [{"edit": "drop", "event": "no such"}]}]}, 422, "an event of"),
        ("predict", b"\x85", 422, "UTF-8"),
        ("next", {"users": ["1"]}, 422, "a run of events"),
        ("totals", {"scope": {"segment": "colour", "value": "red"}}, 422, "a segment out of"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_told_what_to_mend(service, path, body, status, said):
    found, told, _ = raw(service[0], f"/v1/runs/{DAYS}/{path}", body)
    assert found == status
    assert set(told["error"]) == {"expected", "found", "where", "fix"}
    assert said in " ".join(told["error"].values())


def test_an_unknown_run_address_or_method_is_a_problem_too(service):
    for path in ("/v1/runs/other", "/nothing", "/v1/runs/../../etc/passwd"):
        status, told, _ = raw(service[0], path)
        assert status == 404
        assert "error" in told
    status, told, _ = raw(service[0], f"/v1/runs/{DAYS}", {})
    assert status == 405
    assert "error" in told


def test_keys_size_time_and_overload(day_run, serve_runs, users, monkeypatch):
    key = "a key of sixteen characters"
    with serve_runs([day_run], cutoff=CUTOFF, keys=(key,), body_bytes=2000, waiting=1, window_ms=400, users=20) as (
        address,
        service,
    ):
        path, body = f"/v1/runs/{DAYS}/predict", {"users": users[:1]}
        good = {"Authorization": f"Bearer {key}"}
        assert raw(address, path, body)[0] == 401
        assert raw(address, path, body, {"X-API-Key": key + "x"})[0] == 401
        assert raw(address, path, body, good)[0] == 200
        assert raw(address, "/metrics")[0] == 401
        assert raw(address, "/health")[0] == 200
        assert raw(address, path, {"users": ["x" * 100] * 40}, good)[0] == 413
        chunked = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
        chunked.request("POST", path, iter([b"x" * 1500] * 3), good, encode_chunked=True)
        assert chunked.getresponse().status == 413
        chunked.close()
        assert raw(address, path, {"users": users[:21]}, good)[0] == 422
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            told = list(pool.map(lambda _: raw(address, path, body, good), range(6)))
        assert {status for status, _, _ in told} == {200, 429}
        assert all(int(headers["Retry-After"]) >= 1 for status, _, headers in told if status == 429)
        assert values(Once(address, key=key, tries=5).predict(DAYS, users=users[:1])).shape == (1, 2)
        monkeypatch.setattr(service, "config", service.config.model_copy(update={"timeout_s": 0.05}))
        assert raw(address, path, body, good)[0] == 504
        text = raw(address, "/metrics", headers=good)[1].decode()
        assert 'habitus_requests_total{route="/v1/runs/{run}/predict",status="429"}' in text
        assert key not in text


def test_the_log_and_the_metrics_name_no_user(service, users, caplog):
    with caplog.at_level(logging.INFO, logger="habitus.serve"):
        Once(service[0]).totals(DAYS, user=users[3])
        end = time.monotonic() + 20
        raw(service[0], f"/v1/runs/{DAYS}/predict", {"users": ["secret-person"]})
        raw(service[0], "/users/secret-person")
        while len(caplog.records) < 3 and time.monotonic() < end:
            time.sleep(0.02)
    assert len(caplog.records) >= 3
    assert "secret-person" not in caplog.text
    assert "POST /v1/runs/{run}/predict 404" in caplog.text
    assert "secret-person" not in raw(service[0], "/metrics")[1].decode()


# whatever is sent, no 5xx and no answer outside the schema ----------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
TIMES = st.sampled_from(["2023-05-01", "2023-05-01T10:00:00Z", "0001-01-01", "9999-12-31", "2023-13-01", "x" * 9])
HISTORY = st.fixed_dictionaries(
    {
        "user": st.text(min_size=1, max_size=5),
        "events": st.lists(
            st.fixed_dictionaries(
                {"time": TIMES, "type": st.sampled_from(["purchase", "other", "\x00"])},
                optional={
                    "amounts": st.dictionaries(
                        st.sampled_from(["spend", "no"]), st.floats(allow_nan=False, allow_infinity=False), max_size=2
                    )
                },
            ),
            max_size=3,
        ),
    },
    optional={"profile": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)},
)  # fmt: skip
WHO = st.fixed_dictionaries(
    {}, optional={"users": st.lists(st.sampled_from(["0", "1", "u1", "nobody", ""]), max_size=3),
                  "histories": st.lists(HISTORY, max_size=2)},
)  # fmt: skip
DATES = st.dates().map(str)
EDIT = st.fixed_dictionaries(
    {"edit": st.sampled_from(["add", "drop", "move", "rescope"])},
    optional={"event": st.text(max_size=8), "type": st.sampled_from(["sale", "mail", "no"]), "start": DATES,
              "end": DATES, "shift": st.integers(-10_000, 10_000), "strength": st.floats(-1, 2),
              "audience": st.text(max_size=5)},
)  # fmt: skip
FUTURES = st.lists(
    st.fixed_dictionaries({"edits": st.lists(EDIT, max_size=3)}, optional={"name": st.text(max_size=9)}), max_size=2
)
SHAPES = {
    "predict": schemas.Predictions,
    "whatif": schemas.WhatIfAnswer,
    "totals": schemas.ScopeAnswer,
    "embed": schemas.Vectors,
    "similar": schemas.AlikeAnswer,
}


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
@given(data=st.data())
def test_whatever_is_sent_gets_an_answer_of_the_schema(service, data):
    verb = data.draw(st.sampled_from(list(SHAPES)))
    alternatives = st.fixed_dictionaries({"alternatives": FUTURES})
    whole = {
        "predict": WHO,
        "embed": WHO,
        "whatif": st.tuples(WHO, alternatives).map(lambda p: p[0] | p[1]),
        "totals": alternatives,
        "similar": st.fixed_dictionaries({"user": st.sampled_from(["0", "1", "x"]), "top": st.integers(-1, 101)}),
    }
    body = data.draw(whole[verb] | JSON)
    status, told, headers = raw(service[0], f"/v1/runs/{DAYS}/{verb}", body if body is not None else b"null")
    assert status in (200, 404, 422), told
    assert headers["content-type"] == "application/json"
    (SHAPES[verb] if status == 200 else schemas.Problem).model_validate(told)


def test_the_openapi_page_names_every_answer(service):
    _, told, _ = raw(service[0], "/openapi.json")
    assert {f"/v1/runs/{{run}}/{verb}" for verb in (*SHAPES, "next", "generate")} <= set(told["paths"])
    for verb in SHAPES:
        assert {"200", "401", "404", "413", "422", "429", "503", "504"} <= set(
            told["paths"][f"/v1/runs/{{run}}/{verb}"]["post"]["responses"]
        )


# swap, erasure, kill --------------------------------------------------------------------------------------------------


def test_a_new_artifact_is_swapped_in_and_no_request_is_dropped(day_run, serve_runs, users, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(day_run, run)
    with serve_runs([run], cutoff=CUTOFF, window_ms=5, watch_s=0.1) as (address, service):
        before = values(Once(address).predict(DAYS, users=users[:5]))
        calibration = json.loads((run / "artifact/calibration.json").read_text())
        calibration["targets"] = {"buy": {"kind": "platt", "slope": 1.0, "shift": 2.0}}
        seen: list[float] = []
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            end = time.monotonic() + 30

            def ask(_: int) -> int:
                client, n = Once(address, tries=1), 0
                while len(service.models.get(DAYS).artifact.calibration["targets"]["buy"]) and time.monotonic() < end:
                    seen.append(values(client.predict(DAYS, users=users[:1]))[0, 0])
                    n += 1
                    if seen[-1] > before[0, 0] + 0.05:
                        break
                return n

            asking = [pool.submit(ask, i) for i in range(4)]
            time.sleep(0.2)
            beside = run / "artifact/beside.json"
            beside.write_text(json.dumps(calibration))
            beside.rename(run / "artifact/calibration.json")
            assert sum(one.result() for one in asking) >= 4
        assert seen[-1] > before[0, 0] + 0.05
        assert {round(v, 6) for v in seen} <= {round(before[0, 0], 6), round(max(seen), 6)}, (
            "the old or the new, nothing between"
        )


def test_a_broken_artifact_is_not_swapped_in(day_run, serve_runs, users, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(day_run, run)
    with serve_runs([run], cutoff=CUTOFF, window_ms=5, watch_s=0.1) as (address, service):
        before = values(Once(address).predict(DAYS, users=users[:5]))
        weights = run / "artifact/weights-0.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
        os.utime(run / "artifact/manifest.json")
        end = time.monotonic() + 30
        while "failed" not in service.metrics.text() and time.monotonic() < end:
            time.sleep(0.05)
        assert 'habitus_swaps_total{result="failed",run="tiny_world"}' in service.metrics.text()
        np.testing.assert_array_equal(values(Once(address).predict(DAYS, users=users[:5])), before)


def test_an_erased_user_has_no_answer_from_the_next_request_on(day_run, serve_runs, users, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(open_run(day_run).store.path, store)
    run = tmp_path / "run"
    shutil.copytree(day_run, run)
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"store": str(store)}))
    with serve_runs([run], cutoff=CUTOFF, window_ms=5, watch_s=1000) as (address, _):
        client = Once(address)
        assert client.predict(DAYS, users=users[:2])["users"][1]["user"] == users[1]
        manifest = json.loads((store / "manifest.json").read_text())
        table = store / manifest["tables"]["users"]["file"]
        kept = pl.read_parquet(table).filter(pl.col("user").cast(pl.String) != users[1])
        kept.write_parquet(table.with_name("fewer.parquet"))
        manifest["tables"]["users"]["file"] = str(table.with_name("fewer.parquet").relative_to(store))
        (store / "m.json").write_text(json.dumps(manifest))
        (store / "m.json").rename(store / "manifest.json")
        with pytest.raises(HabitusError, match="404"):
            client.predict(DAYS, users=[users[1]])
        assert client.predict(DAYS, users=[users[0]])["users"][0]["user"] == users[0]


def hashes(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_killed_while_answering_it_starts_again_and_answers_the_same(day_run, users, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys; from habitus.cli.main import app; app(sys.argv[1:])"
    words = [sys.executable, "-c", code, "serve", str(day_run), "--cutoff", CUTOFF, "--port", str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    address, found = f"http://127.0.0.1:{port}", []
    before = hashes(day_run) | hashes(open_run(day_run).store.path)
    for signal_sent in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE)
        try:
            end = time.monotonic() + 120
            while True:
                try:
                    assert raw(address, "/ready")[0] == 200
                    break
                except OSError:
                    assert process.poll() is None, process.stderr.read().decode()  # type: ignore[union-attr]
                    assert time.monotonic() < end
                    time.sleep(0.1)
            found.append(Once(address).predict(DAYS, users=users))
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                asked = [pool.submit(raw, address, f"/v1/runs/{DAYS}/predict", {"users": users}) for _ in range(4)]
                time.sleep(0.03)
                process.send_signal(signal_sent)
                ends = [one.exception() or one.result()[0] for one in asked]
            if signal_sent == signal.SIGTERM:
                assert all(e == 200 or isinstance(e, OSError) for e in ends)
                assert process.wait(timeout=60) in (0, -signal.SIGTERM)
        finally:
            process.kill()
            process.communicate()
    assert found[0] == found[1]
    assert hashes(day_run) | hashes(open_run(day_run).store.path) == before
