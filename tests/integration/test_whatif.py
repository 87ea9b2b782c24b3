"""What if, on a small world whose sale and campaign work: every promise of the verb, down to the bit."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import habitus
from habitus.cli.main import app
from habitus.core.errors import CalendarError, ConfigError
from habitus.data.calendar import Calendar
from habitus.data.calendar_edits import Edits
from habitus.data.ingest import ingest
from habitus.data.sources.simulator import World, expected, simulated_log
from habitus.data.store import Store
from habitus.models.lumos import Lumos
from habitus.tasks.run import Run
from habitus.testing.threads import one_thread
from habitus.tokens.loader import prepare

__all__ = ["one_thread"]

WORLD = {
    "n_users": 200,
    "n_days": 170,
    "new_share": 0.0,
    "event_types": [{"name": "purchase", "median": 20.0}],
    "user_types": [{"name": "any", "share": 1.0, "rates": {"purchase": 0.12}, "weekly": [1.0] * 7}],
    "planted": [
        {"type": "sale", "starts": [20, 41, 62, 83, 104, 125, 160], "length": 2, "rate": {"purchase": 1.8}},
        {"type": "mail", "starts": [30, 51, 72, 93, 114, 135, 164], "length": 2, "rate": {"purchase": 1.8},
         "audience": "randomised", "share": 0.4},
    ],
}  # fmt: skip
RECIPE = """
name = "small_world"
store = "unused.store"
seeds = [0, 1, 2]
refit = false
[cutoffs]
horizon = 14
train = { first = 2023-02-05, last = 2023-04-19, every = 5 }
valid = { first = 2023-05-05, last = 2023-05-17, every = 3 }
test = { days = [2023-06-06] }
[tokens]
history = 28
[[targets]]
name = "buy"
define = "any(purchase) in 14d"
per_day = true
[[targets]]
name = "spend"
define = "sum(spend of purchase) in 14d"
unit = "EUR"
[model]
name = "lumos"
size = "tiny"
d_model = 32
n_heads = 2
d_ff = 32
n_encoder = 1
d_profile = 8
[loader]
batch_size = 128
per_user = 0
[training]
epochs = 3
lr = 8e-3
loggers = []
"""
CUTOFF = "2023-06-06"
SALE_DAY = dt.date(2023, 6, 11)  # day 160


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("world")
    return ingest(simulated_log(World.parse(WORLD)), folder / "world.store", n_shards=2)


@pytest.fixture(scope="module")
def run(store: Store) -> Run:
    recipe = store.path.parent / "small_world.toml"
    recipe.write_text(RECIPE)
    return habitus.train(recipe, out=store.path.parent / "run", store=store.path)


def asked(run: Run, *edits: dict[str, Any], **more: Any) -> dict[str, Any]:
    more = {"placebos": 0, "with_importance": False} | more
    return habitus.whatif(run, edits=[Edits.build(edits, where="edit.csv")], cutoff=CUTOFF, **more)


def row_of(section: dict[str, Any], target: str, calendar: str = "edit") -> dict[str, Any]:
    (row,) = [r for r in section["rows"] if (r["target"], r["calendar"]) == (target, calendar)]
    return row


def coming(store: Store, kind: str) -> str:
    events = store.calendar.events.filter((pl.col("type") == kind) & (pl.col("start") > dt.date.fromisoformat(CUTOFF)))
    (name,) = events["event"].to_list()
    return name


def days_of(section: dict[str, Any], calendar: str = "edit") -> np.ndarray:
    """The change of buyers by day."""
    values = section["daily"][0]["values"]
    return np.array(values[calendar]) - np.array(values["as planned"])


# the answer --------------------------------------------------------------------------------------------------------


def test_an_event_moved_later_moves_its_effect_to_later_days(run, store):
    sale, place = coming(store, "sale"), (SALE_DAY - dt.date.fromisoformat(CUTOFF)).days - 1
    dropped = days_of(asked(run, {"edit": "drop", "event": sale}))
    moved = days_of(asked(run, {"edit": "move", "event": sale, "shift": 7}))
    assert set(np.argsort(dropped)[:2]) == {place, place + 1}, "a dropped sale is missed on its days"
    assert dropped[place] < -20
    assert set(np.argsort(moved)[:2]) == {place, place + 1}, "so is a moved one"
    assert set(np.argsort(moved)[-2:]) == {place + 7, place + 8}, "and it works a week later"
    assert moved[place + 7] > 20


def test_the_days_find_the_true_effect_on_the_window(run, store):
    """What the world itself would do without the sale, in closed form."""
    world, cutoff = World.parse(WORLD), dt.date.fromisoformat(CUTOFF)
    sale = coming(store, "sale")
    without = store.calendar.without(events=[sale])
    with_it, without_it = (
        float(expected(world, cutoff, 14, calendar).filter(event_type="purchase")["p"].to_numpy().sum())
        for calendar in (store.calendar, without)
    )
    row = row_of(asked(run, {"edit": "drop", "event": sale}), "buy")
    truth = without_it - with_it
    assert 0.4 < row["day_difference"] / truth < 3, "of the right sign and size; the model is tiny and barely trained"
    assert row["day_low"] <= row["day_difference"] <= row["day_high"]
    assert row_of(asked(run, {"edit": "drop", "event": sale}), "spend")["day_difference"] is None, "no day head"


def test_edits_and_a_whole_calendar_say_the_same(run, store, tmp_path):
    sale = coming(store, "sale")
    other = store.calendar.without(events=[sale])
    store.calendar.write(tmp_path / "as planned.csv")
    other.write(tmp_path / "edit.csv")
    pl.DataFrame({"edit": ["drop"], "event": [sale]}).write_csv(tmp_path / "edits.csv")
    more = {"cutoff": CUTOFF, "placebos": 2}
    whole = habitus.whatif(run, [tmp_path / "as planned.csv", tmp_path / "edit.csv"], **more)
    edits = habitus.whatif(run, [tmp_path / "as planned.csv", tmp_path / "edits.csv"], **more)
    stored = habitus.whatif(run, edits=[tmp_path / "edits.csv"], **more)
    for section in (edits, stored):
        assert section["calendars"] == ["as planned", "edits"]
        for one, same in zip(whole["rows"], section["rows"]):
            assert one["total"] == same["total"]
            assert (one["low"], one["high"]) == (same["low"], same["high"])
        assert section["importance"] == whole["importance"]


def test_users_outside_the_audience_are_unaffected_bit_for_bit(run, store):
    mail = coming(store, "mail")
    chosen = ["1", "2", "3"]
    more = pl.DataFrame({"audience": ["more"] * 3, "user": chosen})
    edit = {"edit": "rescope", "event": mail, "audience": "more", "users": "more"}
    section = asked(run, edit, audiences=more, out=run.path / "users.parquet")
    was = set(store.calendar.audiences.filter(audience=mail)["user"])
    new = set(chosen) - was
    assert new, "a user who had it already would prove nothing"
    table = pl.read_parquet(run.path / "users.parquet").filter(calendar="edit")
    is_new = pl.col("user").cast(pl.String).is_in(new)
    assert not table.filter(~is_new)["difference"].to_numpy().any()
    assert table.filter(is_new)["difference"].to_numpy().all()
    assert row_of(section, "buy")["n_changed"] == len(new)
    (change,) = section["changes"]
    assert (change["what"], change["kind"]) == ("addressed to others", "randomised")


def test_only_the_changed_users_are_decoded_and_all_gives_the_same(run, store):
    from habitus.models.artifact import load_artifact
    from habitus.tasks.forecast import Heads
    from habitus.tasks.predict import eligible_at
    from habitus.tasks.whatif.days import DayPlan
    from habitus.tasks.whatif.futures import Future, answers
    from habitus.tokens.spec import InputSpec

    artifact = load_artifact(run.artifact_path)
    heads = Heads(artifact.heads, artifact.day_heads)
    base = prepare(store, InputSpec.from_json(artifact.spec), eligible_at(run, CUTOFF), has_targets=False)
    other = base.with_calendar(store.calendar.without(events=[coming(store, "mail")]), store.users["user"].to_numpy())
    futures = [Future(base), Future(other), Future(other, is_forced=True)]
    first, some, everybody = answers(
        artifact.members, heads, futures, DayPlan.of(heads, run.recipe), artifact.calibration
    )
    assert 0 < some.is_changed.sum() < len(base)
    np.testing.assert_allclose(some.mean, everybody.mean, rtol=1e-5)
    assert np.array_equal(some.mean[~some.is_changed], first.mean[~some.is_changed])


def test_an_event_nobody_knows_of_yet_changes_nothing(run, store):
    late = {"edit": "add", "type": "sale", "event": "late", "start": "2023-06-12", "announced_at": "2023-06-07"}
    section = asked(run, late, placebos=1)
    assert section["late"] == [{"calendar": "edit", "event": "late"}]
    assert section["changes"] == section["placebo"] == []
    for row in section["rows"]:
        assert (row["difference"], row["n_changed"], row["verdict"]) == (0.0, 0, "nothing")


def test_the_test_of_nothing_is_exact_and_would_notice(run, store, monkeypatch):
    sale = {"edit": "drop", "event": coming(store, "sale")}
    section = asked(run, sale)
    assert [test["largest"] for test in section["null"]] == [0.0, 0.0]
    decode = Lumos.decode
    n_calls = [0]

    def drifting(self, cache, known):
        n_calls[0] += 1
        said = decode(self, cache, known)
        return type(said)(said.window + 1e-3 * n_calls[0], said.day)

    monkeypatch.setattr(Lumos, "decode", drifting)
    assert all(test["largest"] > 0 for test in asked(run, sale)["null"])


def test_the_past_is_encoded_once_however_many_calendars(run, store, monkeypatch):
    n_encoded, n_decoded = [0], [0]
    encode, decode = Lumos.encode, Lumos.decode

    def counted(self, batch):
        n_encoded[0] += 1
        return encode(self, batch)

    def counted_decode(self, cache, known):
        n_decoded[0] += 1
        return decode(self, cache, known)

    monkeypatch.setattr(Lumos, "encode", counted)
    monkeypatch.setattr(Lumos, "decode", counted_decode)
    sale = coming(store, "sale")
    moves = [[{"edit": "move", "event": sale, "shift": days}] for days in (1, 2, 3)]
    seen = []
    for some, more in ((moves[:1], {"placebos": 0, "with_importance": False}), (moves, {"placebos": 3})):
        n_encoded[0] = n_decoded[0] = 0
        options: dict[str, Any] = more
        habitus.whatif(run, edits=[Edits.build(edits) for edits in some], cutoff=CUTOFF, **options)
        seen.append((n_encoded[0], n_decoded[0]))
    assert seen[0][0] % 3 == 0, "one pass for each of the three members"
    assert seen[1][0] == seen[0][0], "more calendars, placebos and events: not one more encoding"
    assert seen[1][1] > seen[0][1]


# how sure ----------------------------------------------------------------------------------------------------------


def test_totals_and_days_come_with_intervals_of_their_own(run, store):
    section = asked(run, {"edit": "drop", "event": coming(store, "sale")})
    assert (section["total_level"], section["n_members"]) == (0.8, 3)
    for row in section["rows"]:
        assert row["total_low"] < row["total"] < row["total_high"]
        assert row["low"] <= row["difference"] <= row["high"]
    (daily,) = section["daily"]
    for name in section["calendars"]:
        sides = zip(daily["low"][name], daily["values"][name], daily["high"][name])
        assert all(low <= value <= high for low, value, high in sides)


def test_placebos_stand_beside_every_answer_and_are_drawn_the_same_again(run, store):
    edits = [{"edit": "drop", "event": coming(store, "sale")}, {"edit": "drop", "event": coming(store, "mail")}]
    section = asked(run, *edits, placebos=3, past_placebos=1)
    kinds = {row["kind"] for row in section["placebo"]}
    assert kinds == {"just after", "other days", "other users", "past day"}
    assert len(section["placebo"]) == 4 * 2
    for row in section["placebo"]:
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["n"] == (1 if row["kind"] == "past day" else 3)
    sizes = {p["kind"]: p for p in section["placebo"] if p["target"] == "buy"}
    assert abs(sizes["past day"]["day_difference"] - sizes["past day"]["difference"]) < 20, "both against one base"
    again = asked(run, *edits, placebos=3, past_placebos=1)
    assert again["placebo"] == section["placebo"]
    assert asked(run, *edits, placebos=3, seed=1)["placebo"] != section["placebo"][: 3 * 2]


def test_users_drawn_by_lot_answer_as_others_do(run, store):
    """The campaign goes to users drawn by lot: as many others of like activity answer alike."""
    section = asked(run, {"edit": "drop", "event": coming(store, "mail")}, placebos=5)
    answer = row_of(section, "spend")["difference"]
    (others,) = [p for p in section["placebo"] if (p["kind"], p["target"]) == ("other users", "spend")]
    assert np.sign(others["difference"]) == np.sign(answer)
    assert abs(others["difference"] - answer) < 0.5 * abs(answer)


def test_what_an_event_adds_is_what_dropping_it_takes(run, store, tmp_path):
    sale = coming(store, "sale")
    section = asked(run, {"edit": "drop", "event": sale}, with_importance=True, importance_out=tmp_path / "i.parquet")
    rows = section["importance"]
    for target in ("buy", "spend"):
        of_target = [row for row in rows if row["target"] == target]
        assert [row["is_placebo"] for row in of_target] == [False, False, True], "the placebo stands last"
        sizes = [abs(row["value"]) for row in of_target if not row["is_placebo"]]
        assert sizes == sorted(sizes, reverse=True)
        (one,) = [row for row in of_target if row["event"] == sale]
        answer = row_of(section, target)
        lead = answer["difference"] if answer["day_difference"] is None else answer["day_difference"]
        assert one["value"] == pytest.approx(-lead, rel=1e-4)
        assert one["low"] <= one["value"] <= one["high"]
        assert one["n_reached"] == section["n_users"]
    table = pl.read_parquet(tmp_path / "i.parquet")
    assert table.height == len(rows)
    mail = table.filter(event=coming(store, "mail"))
    assert 0 < mail["n_reached"][0] < section["n_users"]
    assert set(table["n_past"]) == {6}, "sales and mails begun by the cut-off"


# segments ----------------------------------------------------------------------------------------------------------


def test_disjoint_segments_add_up_to_the_total(run, store):
    edit = {"edit": "drop", "event": coming(store, "sale")}
    users = store.users["user"].cast(pl.String)
    table = pl.DataFrame({"user": users[:150], "segment": [f"s{i % 3}" for i in range(150)]})
    section = asked(run, edit, segment=table, out=run.path / "seg.parquet")
    assert {row["segment"] for row in section["segments"]} == {"s0", "s1", "s2", "(none)"}
    for row in section["rows"]:
        mine = [r for r in section["segments"] if (r["target"], r["calendar"]) == (row["target"], row["calendar"])]
        for name in ("total", "difference", "day_difference", "n_users", "n_changed"):
            if row[name] is None:
                continue
            assert sum(r[name] for r in mine) == pytest.approx(row[name], rel=1e-9, abs=1e-9), name
    answer = pl.read_parquet(run.path / "seg.parquet")
    assert answer.columns == ["user", "target", "calendar", "value", "difference", "by_days", "segment"]
    said = answer.filter(target="buy", calendar="edit").group_by("segment").agg(pl.col("value").sum())
    for name, value in said.rows():
        (row,) = [r for r in section["segments"] if (r["segment"], r["target"], r["calendar"]) == (name, "buy", "edit")]
        assert value == pytest.approx(row["total"])


def test_a_profile_column_is_a_segment_too_and_a_wrong_one_is_named(run, store):
    edit = {"edit": "drop", "event": coming(store, "sale")}
    assert asked(run, edit, segment="segment")["segment_by"] == "segment"
    with pytest.raises(ConfigError, match="did you mean 'segment'"):
        asked(run, edit, segment="segmnt")
    twice = pl.DataFrame({"user": ["1", "1"], "segment": ["a", "b"]})
    with pytest.raises(ConfigError, match="each user once"):
        asked(run, edit, segment=twice)
    many = pl.DataFrame({"user": store.users["user"].cast(pl.String), "segment": store.users["user"].cast(pl.String)})
    with pytest.raises(ConfigError, match="at most 50 segments"):
        asked(run, edit, segment=many)


# what is refused, and the command line -----------------------------------------------------------------------------


def test_the_same_audience_with_other_users_is_another_past(run, store):
    sent = store.calendar.events.filter(pl.col("type") == "mail")["audience"][0]
    groups = store.calendar.audiences.filter(~((pl.col("audience") == sent) & (pl.col("user") == "1")))
    groups = pl.concat([groups, pl.DataFrame({"audience": [sent], "user": ["nobody"]})])
    other = Calendar.build(store.calendar.events, groups)
    with pytest.raises(CalendarError, match="or for other users"):
        habitus.whatif(run, [store.calendar, other], cutoff=CUTOFF)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"edit": "drop", "event": "sale 8"}, "did you mean 'sale"),
        ({"edit": "drop", "event": "sale 6"}, "choose an earlier cut-off"),
        ({"edit": "add", "type": "sail", "start": "2023-06-12"}, "did you mean 'sale'?"),
    ],
)
def test_an_edit_that_cannot_be_made_is_refused(run, edit, said):
    with pytest.raises(CalendarError) as caught:
        asked(run, edit)
    assert said in str(caught.value)


def test_the_command_prints_answer_and_placebo_and_the_page_shows_them(run, store, tmp_path):
    pl.DataFrame({"edit": ["move"], "event": [coming(store, "sale")], "shift": [3]}).write_csv(tmp_path / "later.csv")
    call = ["whatif", str(run.path), "--cutoff", CUTOFF, "--edit", str(tmp_path / "later.csv"), "--placebos", "2"]
    call += ["--segment", "segment", "--out", str(tmp_path / "w.csv"), "--importance-out", str(tmp_path / "i.csv")]
    answer = CliRunner().invoke(app, call)
    assert answer.exit_code == 0, answer.output
    for words in (
        "later:",
        "placebos: just after",
        "exactly 0 for every user",
        "What each coming event",
        "By segment:",
    ):
        assert words in answer.stdout
    assert pl.read_csv(tmp_path / "w.csv").columns[-1] == "segment"
    assert pl.read_csv(tmp_path / "i.csv").height == 2 * 3
    page = habitus.report(run.path).read_text("utf-8")
    for words in ("what if: ", "what each event adds", "by segment", "same change, other days"):
        assert words in page
