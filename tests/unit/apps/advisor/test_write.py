"""A language model that is down or talks nonsense is a miss, said once; a key is sent and goes nowhere else."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from habitus.apps.advisor.write import (
    Endpoint,
    EndpointConfig,
    Failure,
    LocalModel,
    answered,
    endpoint_from_environment,
    writer_of,
)
from habitus.core.errors import ArtifactError, ConfigError

KEY = "sk-secret-0123"
ASKED = [{"role": "user", "content": "which?"}]


class Server:
    """An endpoint that answers from a list: (status, body)."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.seen: list[tuple[str, dict]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.seen.append((self.headers.get("Authorization", ""), json.loads(body)))
                status, answer = outer.answers.pop(0) if outer.answers else (500, b"")
                self.send_response(status)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                return

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def good(text: str) -> tuple[int, bytes]:
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def endpoint(server: Server, cache=None, **more) -> Endpoint:
    return Endpoint(EndpointConfig(base_url=server.address, model="m", wait=0.0, timeout=5, **more), cache, KEY)


def test_an_answer_is_kept_and_the_key_is_only_sent(server, tmp_path, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    server.answers = [good("- GR0000000011")]
    asked = endpoint(server, tmp_path / "cache")
    assert [asked.complete(ASKED), asked.complete(ASKED)] == ["- GR0000000011"] * 2
    assert len(server.seen) == 1  # the second came from the cache
    assert server.seen[0][0] == f"Bearer {KEY}"
    assert server.seen[0][1]["temperature"] == 0
    kept = [path.read_text("utf-8") for path in (tmp_path / "cache").iterdir()]
    assert kept == ["- GR0000000011"]
    written = caplog.text + "".join(capsys.readouterr()) + "".join(kept) + repr(asked) + str(server.seen[0][1])
    assert KEY not in written


@pytest.mark.parametrize(
    "answers",
    [
        [(503, b""), (503, b""), (503, b"")],
        [(401, b'{"error": "bad key sk-secret-0123"}')],
        [(200, b"not json")] * 3,
        [(200, b'{"choices": []}')] * 3,
        [(200, b'{"choices": [{"message": {"content": null}}]}')] * 3,
    ],
    ids=["down", "refused", "no json", "no choices", "no text"],
)
def test_a_failing_endpoint_is_a_miss_that_is_said(server, answers):
    server.answers = list(answers)
    said: list[str] = []
    assert answered(endpoint(server), ASKED, said.append) is None
    assert len(said) == 1
    assert KEY not in said[0]
    assert len(server.seen) == len(answers)


def test_a_retry_can_succeed(server):
    server.answers = [(503, b""), good("yes")]
    assert endpoint(server).complete(ASKED) == "yes"


def test_nobody_listens(server):
    away = EndpointConfig(base_url="http://127.0.0.1:9", model="m", wait=0.0, retries=1, timeout=2)
    with pytest.raises(Failure, match="no answer") as error:
        Endpoint(away, None, KEY).complete(ASKED)
    assert KEY not in str(error.value)


@pytest.mark.parametrize("mode", ["down", "nonsense"])
def test_the_case_stays_in_the_count(small, server, mode, tmp_path):
    """The whole answer is there, with no asset named, and counted as unparsable."""
    from habitus.apps.advisor.advise import Advisor
    from habitus.apps.advisor.rank import RankerConfig, fit_ranker
    from habitus.apps.advisor.run import AdvisorRecipe, Run
    from habitus.apps.advisor.select import RetrievalConfig

    days = [small.view.day - back for back in (560, 500, 440)]
    config = RankerConfig(n_customers=120, rounds=10, min_leaf=5)
    ranker = fit_ranker(small.market, days, days[-1] + 30, days, config, RetrievalConfig())
    run = Run(tmp_path, AdvisorRecipe(name="x"), small.folder, small.graph, small.market, {"multi": ranker})
    advisor = Advisor(run)
    server.answers = [good("I would rather not.")] if mode == "nonsense" else []
    customer = str(small.source.customer_ids[3])
    missed, _ = advisor.advise(customer, small.view.day, writer=endpoint(server))
    assert missed.is_unparsable
    assert missed.assets == []
    server.answers = [good("- XX9999999999\n- " + small.source.isins[small.view.is_open][0] + "\n12.3456")]
    named, _ = advisor.advise(customer, small.view.day, writer=endpoint(server), k=3)
    assert [each.isin is None for each in named.assets] == [True, False]
    assert "12.3456" in named.unsupported
    server.answers = [good("no")]
    filled, _ = advisor.advise(customer, small.view.day, writer=endpoint(server, retries=0), k=3, fill=True)
    assert filled.is_filled
    assert len([each for each in filled.assets if each.isin]) == 3
    plain, found = advisor.advise(customer, small.view.day, k=3)
    again, _ = advisor.advise(customer, small.view.day, k=3)
    assert plain.assets == again.assets  # same seed, same answer
    held = {(t.subject.value, t.object.value) for t in found.triples}
    cited = [each for asset in plain.assets for each in asset.citations]
    assert cited
    values = {value for pair in held for value in pair}
    for each in cited:
        assert each.object.removeprefix("isin:") in {value.removeprefix("urn:isin:") for value in values}


def test_settings_come_from_the_environment(monkeypatch):
    monkeypatch.delenv("HABITUS_LLM_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="HABITUS_LLM_BASE_URL"):
        endpoint_from_environment()
    monkeypatch.setenv("HABITUS_LLM_BASE_URL", "file:///etc")
    monkeypatch.setenv("HABITUS_LLM_MODEL", "m")
    with pytest.raises(ConfigError, match="http"):
        endpoint_from_environment()
    assert writer_of(None) is None


def test_a_folder_without_a_model_is_an_error(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra [llm]")
    with pytest.raises(ArtifactError, match=r"config\.json"):
        LocalModel(tmp_path).complete(ASKED)
