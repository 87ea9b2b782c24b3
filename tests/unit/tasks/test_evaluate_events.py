"""The ranking of a store's test targets: known answers, past in full, intervals that pair users."""

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from habitus.core.errors import ConfigError
from habitus.data.ingest import ingest
from habitus.data.sources.item_sequences import item_sequences
from habitus.data.store import Store
from habitus.models.sasrec import SASRec, SASRecConfig
from habitus.tasks import evaluate_events
from habitus.tasks.evaluate_events import Entry, Question, check_alike, ranking, whole_past
from habitus.tasks.event_gate import SHARES
from habitus.tasks.ranked import ranked, teller
from habitus.tasks.ranking_scores import summary
from habitus.testing.threads import one_thread
from habitus.tokens.event_split import EventSplit
from habitus.tokens.events import EventTokenConfig, fit_event_spec

__all__ = ["one_thread"]

SPLIT = EventSplit(protocol="leave_last_out")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """40 users walk round a ring of 10 items, from where they like, 4 to 14 steps; one ends at an item of its own."""
    folder = tmp_path_factory.mktemp("ring")
    draw = np.random.default_rng(0)
    start = draw.integers(0, 10, 40).tolist()
    rows = [(u, t, (start[u] + t) % 10) for u in range(40) for t in range(4 + u % 11)]
    rows[-1] = (*rows[-1][:2], 99)
    table = pl.DataFrame(rows, schema=["user", "position", "item"], orient="row")
    table.write_parquet(folder / "ring.parquet")
    return ingest(item_sequences(folder / "ring.parquet"), folder / "ring.store")


def question(store: Store, length: int = 5) -> Question:
    spec = fit_event_spec(store, EventTokenConfig(length=length, fields=("item",)), SPLIT)
    return Question(store, spec, SPLIT, "item", tokens_per_batch=32)


@pytest.fixture(scope="module")
def section(store: Store) -> dict:
    asked = question(store)
    members = [SASRec(SASRecConfig(d_model=8), asked.spec.shape, seed=seed).eval() for seed in (0, 1)]
    return ranking({"SASRec": Entry(asked, members)}, n_resamples=100)


def of(section: dict, model: str) -> dict:
    return next(row for row in section["table"] if row["model"] == model)


def test_the_graph_knows_the_ring(section: dict) -> None:
    graph = of(section, "transition graph")["metrics"]
    assert section["n_targets"] == section["n_users"] == 40
    assert section["n_unknown"] == 1  # the item of the last user
    assert graph["hit_rate@1"]["value"] == pytest.approx(39 / 40)
    assert graph["recall_weighted"] == graph["hit_rate@1"]
    assert graph["recall_macro"]["value"] == 1.0  # over the classes that could be told
    assert graph["hit_rate@10"]["low"] < graph["hit_rate@10"]["value"] < 1


def test_what_the_user_had_is_left_out_in_full(section: dict, store: Store) -> None:
    """Users of more than 10 events have met every item of the ring: with what they had left out they are all lost."""
    graph = of(section, "transition graph")["metrics"]
    n_short = sum(1 for u in range(39) if 4 + u % 11 <= 10)
    assert section["repeat_share"] == pytest.approx(1 - (n_short + 1) / 40)
    assert graph["new_hit_rate@1"]["value"] == pytest.approx(n_short / 40)
    # rows hold 5 events: only the whole past of the log knows more
    asked = question(store)
    test = asked.loader("test")
    tell = teller([SASRec(SASRecConfig(d_model=8), asked.spec.shape).eval()], "item")
    assert ranked(tell, test, 0).is_repeat.sum() == 0
    assert ranked(tell, test, 0, whole_past(test, 0)).is_repeat.sum() == 40 - n_short - 1


def test_differences_are_paired(section: dict) -> None:
    gaps = {(g["against"], g["metric"]): g for g in section["differences"]}
    gap = gaps["transition graph", "hit_rate@10"]
    values = [of(section, n)["metrics"]["hit_rate@10"]["value"] for n in ("SASRec", "transition graph")]
    assert gap["value"] == pytest.approx(values[0] - values[1])
    assert gaps["transition graph", "ndcg@10"]["is_better"] is False
    assert {g["model"] for g in section["differences"]} == {"SASRec"}


def test_members_are_averaged_and_their_spread_shown(section: dict) -> None:
    row = of(section, "SASRec")
    assert len(row["seeds"]) == 2
    assert row["seed_sd"]["ndcg@10"] == pytest.approx(np.std([s["ndcg@10"] for s in row["seeds"]], ddof=1))
    assert section["mixed_share"] in SHARES
    assert (
        of(section, "SASRec + transition graph")["metrics"]["hit_rate@1"]["value"]
        > row["metrics"]["hit_rate@1"]["value"]
    )


def test_the_section_is_plain_and_printed(section: dict) -> None:
    assert json.loads(json.dumps(section)) == section
    text = summary(section)
    assert "SASRec is WORSE than transition graph" in text
    assert "popularity, last 7 days" in text
    assert "40 targets of 40 users, 10 values ranked" in text


def test_the_same_again_gives_the_same(section: dict, store: Store) -> None:
    asked = question(store)
    members = [SASRec(SASRecConfig(d_model=8), asked.spec.shape, seed=seed).eval() for seed in (0, 1)]
    again = ranking({"SASRec": Entry(asked, members)}, n_resamples=100)
    assert again["table"][0] == section["table"][0]


def test_an_unknown_row_of_the_gate_is_an_error(store: Store) -> None:
    asked = question(store)
    with pytest.raises(ConfigError, match="did you mean 'transition'"):
        ranking({"SASRec": Entry(asked, [SASRec(SASRecConfig(d_model=8), asked.spec.shape)])}, gate=("transitions",))


def test_types_keep_what_was_seen(store: Store) -> None:
    spec = fit_event_spec(store, EventTokenConfig(length=5, fields=("type", "item")), SPLIT)
    asked = Question(store, spec, SPLIT, "type")
    config = SASRecConfig(d_model=8, field="type")
    found = ranking({"SASRec": Entry(asked, [SASRec(config, spec.shape)])}, gate=("popularity",), n_resamples=100)
    assert not any(name.startswith("new_") for name in found["table"][0]["metrics"])
    assert found["table"][0]["metrics"]["hit_rate@1"]["value"] == 1.0  # one type only
    assert torch.isfinite(torch.tensor(found["table"][0]["metrics"]["cross_entropy"]["value"]))


def test_models_of_other_lengths_answer_the_same_targets(store: Store) -> None:
    short, long = question(store, 3), question(store, 9)
    entries = {
        f"{q.spec.length}": Entry(q, [SASRec(SASRecConfig(d_model=8), q.spec.shape).eval()]) for q in (short, long)
    }
    check_alike(short, long, "")
    one, two = (e.question.ranked(teller(e.members, "item"), "train") for e in entries.values())
    assert one.told.tolist() == two.told.tolist()
    assert one.rank.tolist() != two.rank.tolist()
    found = ranking(entries, gate=("popularity",), n_resamples=100)
    assert {g["against"] for g in found["differences"]} == {"9", "popularity"}
    other = fit_event_spec(store, EventTokenConfig(length=3, fields=("item",), min_count=30), SPLIT)
    with pytest.raises(ConfigError, match="values"):
        check_alike(short, Question(store, other, SPLIT, "item"), "other run")


def test_a_temperature_moves_probabilities_and_no_rank(section: dict, store: Store) -> None:
    asked = question(store)
    members = [SASRec(SASRecConfig(d_model=8), asked.spec.shape, seed=seed).eval() for seed in (0, 1)]
    found = of(ranking({"SASRec": Entry(asked, members, 0.01)}, gate=(), n_resamples=100), "SASRec")["metrics"]
    before = of(section, "SASRec")["metrics"]
    assert found["ndcg@10"] == before["ndcg@10"]
    assert abs(found["cross_entropy"]["value"] - before["cross_entropy"]["value"]) > 0.01


def test_a_run_is_ranked_at_its_own_temperature(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = SimpleNamespace(spec=question(store).spec.to_json(), members=[], calibration={"temperature": 1.7})
    monkeypatch.setattr(evaluate_events, "load_artifact", lambda path: kept)
    recipe = SimpleNamespace(split=SPLIT, field="item")
    run = SimpleNamespace(recipe=recipe, store=store, artifact_path=None)
    assert evaluate_events._entry(run).temperature == 1.7
    kept.calibration = {}
    assert evaluate_events._entry(run).temperature == 1.0
