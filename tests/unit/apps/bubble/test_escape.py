"""Invariants of the measure, and worlds whose answer is planted."""

from dataclasses import replace

import numpy as np
import pytest

from habitus.apps.bubble.findings import findings_of
from habitus.apps.bubble.groups import group_table
from habitus.apps.bubble.kinds import make_recommender
from habitus.apps.bubble.loop import LoopConfig, Played, Stage, play
from habitus.apps.bubble.measure import common_lists, escape, measure
from habitus.apps.bubble.policies import ARMS
from habitus.metrics.bootstrap import resamples

KNN = {"kind": "item_knn", "k": 20}


def played(stage, values, config):
    make = lambda: make_recommender(values, stage.catalogue)  # noqa: E731
    return [play(stage, make, config, pair) for pair in range(config.pairs)]


def measured(stage, values, config):
    return measure(stage, played(stage, values, config), config)


def swapped(worlds: list[Played]) -> list[Played]:
    """The same worlds with the names of the two arms exchanged."""
    order = [1, 0, *range(2, len(worlds[0].arms))]
    names = ("ranked", "lists", "taken", "pages")
    return [
        replace(each, frozen=each.frozen[[1, 0]], **{name: getattr(each, name)[order] for name in names})
        for each in worlds
    ]


@pytest.fixture(scope="module")
def knn(stage, short):
    return played(stage, KNN, short)


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ({"kind": "random"}, {}),
        ({"kind": "popularity"}, {"how": "fold_in"}),
        (KNN, {"how": "none"}),
        (KNN, {"eps": 1.0}),
    ],
)
def test_without_a_response_the_score_is_exactly_zero(stage, short, values, changed):
    found = measured(stage, values, short.model_copy(update=changed)).facts
    assert found["gap"]["value"] == 0
    assert found["js"]["value"] == pytest.approx(0, abs=1e-12)
    assert found["gap"]["p"] == 1
    assert found["as_shown"]["gap"] != 0  # what the common mask is for


def test_agents_who_try_nothing_score_zero(stage, short, monkeypatch):
    monkeypatch.setitem(ARMS, "positive", ARMS["base"])
    monkeypatch.setitem(ARMS, "negative", ARMS["base"])
    worlds = played(stage, KNN, short)
    found = measure(stage, worlds, short)
    assert found.facts["gap"]["value"] == 0
    assert not found.gap_user.any()
    assert found.facts["js"]["corrected"] == pytest.approx(0, abs=1e-12)
    assert np.array_equal(worlds[0].lists[0], worlds[0].lists[1])


def test_a_response_is_seen_and_swapped_arms_turn_its_sign(stage, short, knn):
    one, two = measure(stage, knn, short).facts, measure(stage, swapped(knn), short).facts
    assert one["gap"]["value"] != 0
    assert two["gap"]["value"] == pytest.approx(-one["gap"]["value"], abs=1e-12)
    assert two["js"]["value"] == pytest.approx(one["js"]["value"], abs=1e-12)


def test_same_seed_same_bits(stage, short, knn):
    (again,) = [play(stage, lambda: make_recommender(KNN, stage.catalogue), short, 1)]
    for name in ("ranked", "lists", "taken", "pages", "frozen"):
        assert np.array_equal(getattr(again, name), getattr(knn[1], name))
    assert not np.array_equal(knn[0].lists, knn[1].lists)


def test_one_category_alone_gives_zero_and_even_halves_keep_the_sign(stage, short, knn):
    share, names = stage.catalogue.share, stage.catalogue.categories
    merged = replace(stage.catalogue, share=share.sum(axis=1, keepdims=True), categories=("all",))
    found = measure(Stage(merged, stage.agents, stage.policy), knn, short).facts
    assert found["gap"]["value"] == 0
    assert found["js"]["value"] == pytest.approx(0, abs=1e-9)
    doubled = tuple(f"{name} {half}" for name in names for half in (1, 2))
    parted = replace(stage.catalogue, share=np.repeat(share / 2, 2, axis=1), categories=doubled)
    halves = Stage(parted, stage.agents, stage.policy)
    whole, split = (measure(s, knn, short).facts for s in (stage, halves))
    assert np.sign(split["gap"]["value"]) == np.sign(whole["gap"]["value"])
    assert split["js"]["value"] == pytest.approx(whole["js"]["value"])


def test_nothing_seen_or_taken_is_offered_again(stage, knn):
    seen = stage.agents.mask()
    for world in range(len(knn[0].arms)):
        own = seen.copy()
        for lists, taken in zip(knn[0].lists[world], knn[0].taken[world]):
            row, place = np.nonzero(lists >= 0)
            assert not own[row, lists[row, place]].any()
            row, place = np.nonzero(taken)
            own[row, lists[row, place]] = True
        assert own.sum() > seen.sum()


def test_the_common_mask_holds_what_any_copy_took(stage, short, knn):
    lists = common_lists(stage, knn, short, ("positive", "negative"))
    took = np.zeros((len(stage.agents), stage.catalogue.n_items), bool)
    for number in range(short.rounds):
        for each in lists[:, :, number].reshape(-1, *lists.shape[3:]):
            row, place = np.nonzero(each >= 0)
            assert not took[row, each[row, place]].any()
        for world in knn:
            for arm in range(2):
                row, place = np.nonzero(world.taken[arm, number])
                took[row, world.lists[arm, number][row, place]] = True
    assert (lists >= 0).all()


def test_a_catalogue_of_repeats_may_offer_again(repeated, short):
    (world,) = played(repeated, KNN, short.model_copy(update={"pairs": 1}))
    seen = repeated.agents.mask()
    row, place = np.nonzero(world.lists[0, 0] >= 0)
    assert seen[row, world.lists[0, 0][row, place]].any()


def test_one_agent_none_and_one_pair_are_measured(stage, short):
    for n in (1, 0):
        rows = np.arange(n)
        agents = stage.policy.some(rows).agents
        agents = replace(agents, likes=stage.agents.likes.take(rows), seen=stage.agents.seen.take(rows),
                         held=stage.agents.held.take(rows))  # fmt: skip
        few = Stage(stage.catalogue, agents, stage.policy.some(rows))
        (world,) = played(few, {"kind": "popularity"}, short.model_copy(update={"pairs": 1}))
        assert world.lists.shape[2] == n
    found = measured(
        few := Stage(stage.catalogue, stage.agents, stage.policy), KNN, short.model_copy(update={"pairs": 1})
    )
    assert np.isfinite(found.facts["gap"]["value"])
    assert np.isnan(found.facts["js"]["value"])
    assert few.agents is stage.agents


def exposures(signs, n_users=200, seed=0):
    """Category counts of pairs whose positive world is as much wider as `signs` says."""
    rng = np.random.default_rng(seed)
    found = np.zeros((len(signs), 2, n_users, 4))
    for r, sign in enumerate(signs):
        for arm, width in ((0, 1 + max(sign, 0)), (1, 1 + max(-sign, 0))):
            found[r, arm] = rng.dirichlet(np.full(4, width), n_users) * 80
    return found


def test_permutation_finds_a_steady_gap_and_not_a_changing_one():
    drawn = resamples(np.arange(200), 100)
    steady, _, _ = escape(exposures([1.0] * 6), drawn)
    assert steady["gap"]["p"] == pytest.approx(2 / 2**6)
    assert steady["gap"]["low"] > 0
    assert steady["gap"]["corrected"] == pytest.approx(steady["gap"]["value"])
    assert steady["gap"]["user_low"] < steady["gap"]["value"] < steady["gap"]["user_high"]
    changing, _, _ = escape(exposures([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]), drawn)
    assert changing["gap"]["p"] > 0.2
    assert changing["gap"]["low"] < 0 < changing["gap"]["high"]


def test_js_counts_movement_beyond_that_of_two_worlds_of_one_arm():
    drawn = resamples(np.arange(200), 100)
    noise, _, _ = escape(exposures([0.0] * 4), drawn)
    assert abs(noise["js"]["corrected"]) < 0.003
    assert noise["js_raw"] > 0.05  # two draws of one arm lie apart
    base = np.random.default_rng(1).dirichlet(np.ones(4), 200)
    moved = np.stack([np.stack([base, base[:, ::-1]]) for _ in range(4)])
    found, _, by_user = escape(moved, drawn)
    assert found["within"] == pytest.approx(0, abs=1e-12)
    assert found["js"]["value"] == pytest.approx(by_user.mean())
    assert found["js"]["p"] == pytest.approx(2 / 2**4)


LONG = LoopConfig.parse({"rounds": 4, "pages": 4, "per_page": 4, "pairs": 4, "has_frozen": False})


def test_the_calibrated_responder_widens_with_rho_and_a_greedy_one_narrows(planted):
    gaps = [measured(planted, {"kind": "responder", "rho": rho}, LONG).facts["gap"]["value"] for rho in (0.0, 0.5, 1.0)]
    assert gaps[0] == 0
    assert 0 < gaps[1] < gaps[2]
    greedy = measured(planted, {"kind": "responder", "rho": 0.6, "is_greedy": True}, LONG).facts
    assert greedy["gap"]["value"] < gaps[1]
    assert greedy["js"]["value"] > 0


def test_a_stubborn_recommender_that_reads_first_likes_alone_gives_zero(planted):
    found = measured(planted, {"kind": "responder", "rho": 1.0, "first": 20}, LONG).facts
    assert found["gap"]["value"] == 0


def test_a_group_that_is_answered_more_is_found():
    rng = np.random.default_rng(0)
    side = np.where(np.arange(300) % 3 == 0, "planted", "rest")
    score = rng.normal(0.02, 0.05, 300) + 0.04 * (side == "planted")
    noise = {f"noise {k}": np.array(["a", "b"])[rng.integers(0, 2, 300)] for k in range(8)}
    rows = group_table(score, np.arange(300), {"side": side} | noise)
    assert {row["kind"] for row in rows if row["p_holm"] < 0.05} == {"side"}
    assert group_table(score[:30], np.arange(30), {"side": side[:30]}) == []


def test_clones_of_a_user_count_as_one():
    score, source = np.tile(np.r_[np.zeros(25), np.ones(25)], 40), np.tile(np.arange(50), 40)
    (one, _) = group_table(score, source, {"side": np.tile(np.repeat(["a", "b"], 25), 40)})
    assert one["n"] == 25


def row(label, ndcg, gap, **more):
    by_pair = [gap - 0.001, gap + 0.001, gap, gap + 0.0005]
    facts = {"label": label, "name": label, "kind": "mf_bpr", "family": "static", "role": "main", "eps": 0.0}
    facts |= {"ndcg@20 before": {"value": ndcg, "sd": 0.0}, "gap": {"value": gap, "by_pair": by_pair}}
    return facts | more


def test_findings_are_confirmed_refuted_or_open():
    rng = np.random.default_rng(0)
    many = [
        row(f"m{n}", x, -0.1 * x + rng.normal(0, 1e-3), role="strength") for n, x in enumerate(np.linspace(0, 0.3, 26))
    ]
    main = [row("MF", 0.2, 0.02), row("SASRec", 0.25, 0.01, family="sequential", kind="sasrec")]
    mild = [row("MF", 0.2, 0.01, role="eps", eps=0.1), row("SASRec", 0.2, 0.001, role="eps", eps=0.1)]
    apart, _, order, chance = findings_of([*many, *main, *mild])
    assert (apart["verdict"], order["verdict"], chance["verdict"]) == ("confirmed", "confirmed", "confirmed")
    up = [row("MF", 0.2, 0.01), row("SASRec", 0.25, 0.02, family="sequential", kind="sasrec")]
    help_ = [row("MF", 0.2, 0.03, role="eps", eps=0.1)]
    apart, _, order, chance = findings_of([*many[:6], *up, *help_])
    assert (apart["verdict"], order["verdict"], chance["verdict"]) == ("open", "refuted", "refuted")
    assert [f["verdict"] for f in findings_of(up[:1])] == ["open"] * 4


def test_the_slope_inside_a_recommender_is_not_that_between_recommenders():
    rng, many = np.random.default_rng(0), []
    for name, ndcg, gap in (("weak", 0.1, 0.01), ("strong", 0.2, 0.05)):  # the better one lets out more
        for x in np.linspace(-0.03, 0.03, 13):
            many.append(row(name, ndcg + x, gap - 0.1 * x + rng.normal(0, 1e-4), role="strength"))
    over, within, *_ = findings_of(many)
    assert (over["verdict"], within["verdict"]) == ("refuted", "confirmed")
    assert within["value"] == pytest.approx(-0.1, abs=0.005)
    assert within["low"] < -0.1 < within["high"]
    assert findings_of(many[:13])[1]["verdict"] == "open", "13 points are too few"
