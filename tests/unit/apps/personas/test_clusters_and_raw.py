"""Personas out of a raw dump: bounded clusters, the planted personas, exactly the threads that were planted."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.apps.personas.clusters import assign, fit_clusters
from habitus.apps.personas.raw import prepare_dump
from habitus.apps.personas.writer import EndpointWriter, FolderWriter
from habitus.core.errors import ConfigError, SourceError
from habitus.data.sources.persona_dump import write_persona_dump
from habitus.data.sources.persona_threads import read_threads
from habitus.data.sources.persona_world import PersonaWorldConfig


def test_the_cheap_repair_is_within_a_hundredth_of_the_exact_assignment():
    rng = np.random.default_rng(0)
    for _ in range(5):
        distance = rng.random((120, 4)) + np.array([0, 0, 0.6, 0.9])
        exact, cheap = (assign(distance, 20, is_exact=flag) for flag in (True, False))
        cost = [distance[np.arange(120), at].sum() for at in (exact, cheap)]
        for at in (exact, cheap):
            assert np.bincount(at, minlength=4).min() >= 20
        assert cost[0] - 1e-9 <= cost[1] <= 1.01 * cost[0]


def test_clusters_hold_their_least_size_and_too_few_users_are_refused():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 3)).astype(np.float32)
    centres = fit_clusters(vectors, 5, least=10, n_starts=2)
    assert centres.shape == (5, 3)
    with pytest.raises(ConfigError, match="fewer personas"):
        assign(np.zeros((19, 2)), 10)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    folder = tmp_path_factory.mktemp("dump")
    raw = write_persona_dump(folder / "raw", PersonaWorldConfig(n_threads=1200, n_personas=4))
    return raw, folder / "out", prepare_dump(raw / "commits.jsonl", folder / "out", n_personas=4, secret="s")


def test_the_planted_personas_are_found(prepared: tuple[Path, Path, dict]):
    from sklearn.metrics import adjusted_rand_score

    raw, out, _ = prepared
    both = pl.read_parquet(out / "personas.parquet").join(pl.read_parquet(raw / "personas.parquet"), on="did")
    assert adjusted_rand_score(both["persona"], both["cluster"]) >= 0.9
    assert both["cluster"].value_counts()["count"].min() >= 10


def test_exactly_the_planted_threads_come_out(prepared: tuple[Path, Path, dict]):
    raw, out, counts = prepared
    posts = {}
    for line in (raw / "commits.jsonl").read_text("utf-8").splitlines():
        commit = json.loads(line)
        what = commit["commit"]
        if what["operation"] == "create" and what["rkey"].startswith("p"):
            posts[f"at://{commit['did']}/{what['collection']}/{what['rkey']}"] = what["record"]["text"]
    expected = pl.read_parquet(raw / "expected.parquet")
    wanted = sorted((action, posts[post]) for action, post in expected.select("action", "post").rows())
    block = next(read_threads(out / "threads.jsonl"))
    assert sorted(block.rows.select("action", "post_text").rows()) == wanted
    assert not len(block.rejected)
    assert counts["actions"] == {"written": len(wanted)}


def test_what_reaches_a_person_is_taken_out_and_what_cannot_be_used_is_counted(tmp_path: Path):
    raw = write_persona_dump(tmp_path / "raw", PersonaWorldConfig(n_threads=60, n_personas=1))
    text = "write me at a.b@mail.org or @you.example +44 20 7946 0958 see https://x.org/y 10.0.0.1 שלום 😀"
    post = "app.bsky.feed.post"

    def commit(time: int, operation: str, collection: str, key: str, record: dict | None = None) -> str:
        inner = {"operation": operation, "collection": collection, "rkey": key} | ({"record": record} if record else {})
        return json.dumps({"did": "did:plc:u0x0", "time_us": time, "commit": inner}) + "\n"

    with (raw / "commits.jsonl").open("a", encoding="utf-8") as file:
        file.write(commit(10**13, "create", post, "mine", {"text": text, "langs": ["en"]}))
        file.write(
            commit(
                10**13 + 1, "create", "app.bsky.feed.like", "l", {"subject": {"uri": f"at://did:plc:u0x0/{post}/mine"}}
            )
        )
        file.write(commit(10**13 + 2, "create", "app.bsky.feed.like", "m", {"subject": {"uri": f"at://gone/{post}/x"}}))
        file.write(commit(10**13 + 3, "delete", "app.bsky.feed.like", "never made"))
        file.write(commit(10**13 + 4, "create", "app.bsky.feed.other", "o", {}) + "{bad\n")
    found = prepare_dump(raw / "commits.jsonl", tmp_path / "out", n_personas=1)
    assert found["rejected"] == {"another collection": 1, "bad JSON": 1}
    assert found["actions"]["post not in the dump"] == 1
    assert found["actions"]["undo without its action"] == 1
    said = (tmp_path / "out" / "threads.jsonl").read_text("utf-8")
    (line,) = [line for line in said.splitlines() if "write me" in line]
    assert "write me at <EMAIL> or" in line
    assert "<PHONE>" in line
    assert "<URL> <IP> שלום 😀" in line
    assert "did:plc" not in said


def test_too_few_users_stop_before_anything_is_written(tmp_path: Path):
    raw = write_persona_dump(tmp_path / "raw", PersonaWorldConfig(n_threads=60, n_personas=1))
    with pytest.raises(SourceError, match="users with texts"):
        prepare_dump(raw / "commits.jsonl", tmp_path / "out", n_personas=50)
    assert not (tmp_path / "out").exists()


def test_a_writer_asks_once_for_the_same_prompt_and_keeps_no_key(tmp_path: Path):
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(
                (self.headers["Authorization"], json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            )
            body = json.dumps({"choices": [{"message": {"content": " made \n"}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = {"HABITUS_LLM_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1", "HABITUS_LLM_MODEL": "m",
             "HABITUS_LLM_API_KEY": "secret-key"}  # fmt: skip
    writer = EndpointWriter(tmp_path / "kept", names)
    assert writer(["post", "post"], [["one"], ["one"]]) == ["made", "made"]
    assert len(asked) == 1
    assert asked[0][0] == "Bearer secret-key"
    assert all("secret-key" not in path.read_text("utf-8") for path in (tmp_path / "kept").iterdir())
    server.shutdown()
    server.server_close()
    with pytest.raises(SourceError, match="language model"):
        writer(["another"], [[]])
    with pytest.raises(ConfigError, match="HABITUS_LLM"):
        EndpointWriter(tmp_path, {})
    with pytest.raises(ConfigError, match="no such folder"):
        FolderWriter(tmp_path / "none")
