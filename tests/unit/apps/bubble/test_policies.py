"""The rules against a plain loop over agents, and what may never happen on a page."""

import math

import numpy as np
import pytest
from scipy.special import expit

from habitus.apps.bubble.draws import draws
from habitus.apps.bubble.lists import EMPTY
from habitus.apps.bubble.llm import LLMPolicy, chat_answers, folder_answers, parse_answer
from habitus.apps.bubble.policies import ARMS, CROWD, DELTA, PolicyConfig, RulePolicy, State, browse


def state_of(stage, arm="base", seed=5):
    activity, diversity = ARMS[arm].levels(stage.agents)
    return State(stage.agents.old, activity, diversity, seed, arm)


def lists_of(stage, n=20, seed=1):
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(stage.catalogue.n_items)[:n] for _ in range(len(stage.agents))])


def slowly(stage, lists, state, number, per_page):
    """Browse agent by agent and item by item, as the page describes it."""
    agents, share, policy = stage.agents, stage.catalogue.share, stage.policy
    config = policy.config
    taken, pages, masses = np.zeros(lists.shape, bool), [], []
    for u in range(len(lists)):
        mass, n_pages = state.mass[u].copy(), 0
        for page in range(lists.shape[1] // per_page):
            n_pages += 1
            s = mass / mass.sum()
            mean = sum(1 - s[share[i] > 0].sum() for i in range(len(share))) / len(share)
            wanted = []
            for place in range(page * per_page, (page + 1) * per_page):
                i = lists[u, place]
                new = 1 - s[share[i] > 0].sum()
                score = policy.theta + agents.taste[u, i] + config.novelty * DELTA[state.diversity[u]] * (new - mean)
                score += config.crowd * CROWD[agents.conformity[u]] * policy.popular[i]
                p = 1 / (1 + math.exp(-score))
                luck = draws(state.seed, agents.key[[u]], np.array([i]), number, "watch")[0]
                if luck < p:
                    wanted.append((p - luck, place))
            cap = config.caps[state.activity[u] - 1]
            chosen = [place for _, place in sorted(wanted, reverse=True)[:cap]]
            taken[u, chosen] = True
            mass = mass * 0.5 ** (len(chosen) / config.half_life) + share[lists[u, chosen]].sum(axis=0)
            hazard = config.exits[state.activity[u] - 1] * (2 if page + 1 >= 4 else 1.5 if page + 1 >= 2 else 1)
            if draws(state.seed, agents.key[[u]], np.array([page + 1]), number, "exit")[0] < hazard:
                break
        pages.append(n_pages)
        masses.append(mass)
    return taken, np.array(pages), np.stack(masses)


@pytest.mark.parametrize("arm", ["base", "positive", "negative"])
def test_rules_over_arrays_equal_a_loop_over_agents(stage, arm):
    lists, state = lists_of(stage), state_of(stage, arm)
    found = browse(stage.policy, lists, state, stage.catalogue.share, 2, 4)
    expected = slowly(stage, lists, state, 2, 4)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])
    assert found[2] == pytest.approx(expected[2])
    assert found[0].any()


def test_pages_and_taken_items_stay_within_what_is_shown(stage):
    lists = lists_of(stage)
    lists[:, 17:] = EMPTY
    lists[3] = EMPTY
    state = state_of(stage, "positive")
    taken, pages, mass = browse(stage.policy, lists, state, stage.catalogue.share, 1, 4)
    assert not taken[lists < 0].any()
    assert not taken[np.arange(20) // 4 >= pages[:, None]].any()
    assert pages.min() >= 1
    assert pages.max() <= 5
    assert np.array_equal(mass[3], state.mass[3])
    per_page = taken.reshape(len(taken), 5, 4).sum(axis=2)
    assert (per_page <= np.array((0, 1, 2, 4))[state.activity][:, None]).all()


def test_draws_hang_on_the_item_and_not_on_its_place(stage):
    one = draws(3, np.array([7]), np.array([[4, 9, 2]]), 1, "watch")
    two = draws(3, np.array([7]), np.array([[2, 4, 9]]), 1, "watch")
    assert one[0, [2, 0, 1]].tolist() == two[0].tolist()
    assert draws(3, np.array([7]), np.array([4]), 2, "watch")[0] != one[0, 0]
    assert draws(3, np.array([7]), np.array([4]), 1, "exit")[0] != one[0, 0]


def test_the_order_of_agents_changes_nothing(stage):
    lists, state = lists_of(stage), state_of(stage, "positive")
    taken, pages, _ = browse(stage.policy, lists, state, stage.catalogue.share, 1, 4)
    order = np.random.default_rng(0).permutation(len(lists))
    other = State(state.mass[order], state.activity[order], state.diversity[order], state.seed, state.arm)
    found = browse(stage.policy.some(order), lists[order], other, stage.catalogue.share, 1, 4)
    assert np.array_equal(found[0], taken[order])
    assert np.array_equal(found[1], pages[order])


def test_positive_agents_take_more_and_newer_things(stage):
    lists = lists_of(stage)
    share = stage.catalogue.share
    found = {arm: browse(stage.policy, lists, state_of(stage, arm), share, 1, 4) for arm in ARMS}
    count = {arm: each[0].sum() for arm, each in found.items()}
    assert count["positive"] > count["base"] > count["negative"]
    own = stage.agents.old / stage.agents.old.sum(axis=1, keepdims=True)
    known = np.einsum("uc,unc->un", own, (share > 0)[lists])
    new = {arm: 1 - known[found[arm][0]].mean() for arm in ("active", "positive")}  # the same activity
    assert new["positive"] > new["active"]


def test_the_threshold_meets_the_rate_it_was_set_by(stage):
    agents = stage.agents
    best = np.argsort(-np.where(agents.mask(), -np.inf, agents.taste), axis=1, kind="stable")[:, :20]
    policy = RulePolicy(
        agents, stage.catalogue.share, np.ones(stage.catalogue.n_items), PolicyConfig.parse({"watch_rate": 0.2})
    )
    state = State(agents.old, agents.activity, agents.diversity, 0)
    taken, pages, _ = browse(policy, best, state, stage.catalogue.share, 1, 4)
    assert taken.sum() / (4 * pages.sum()) == pytest.approx(0.2, abs=0.02)


def test_nobody_to_ask_is_no_error(stage):
    nobody = stage.policy.some(np.zeros(0, int))
    state = State(np.zeros((0, 6)), np.zeros(0, int), np.zeros(0, int), 0)
    taken, pages, mass = browse(nobody, np.zeros((0, 8), int), state, stage.catalogue.share, 1, 4)
    assert taken.shape == (0, 8)
    assert pages.size == mass.shape[0] == 0


def scripted(stage, agents):
    """Answers that say what the rules would have said."""
    answers = {}

    class Rules(LLMPolicy):
        def decide(self, page, state):
            taken, leaves = self.rules.decide(page, state)
            for u in range(len(taken)):
                numbers = [int(n) + 1 for n in np.flatnonzero(taken[u])]
                said = f'{{"take": {numbers}, "leave": {str(bool(leaves[u])).lower()}}}'
                answers[self.prompt(u, page, state)] = said
            return super().decide(page, state)

    titles, likes = [f"film {i}" for i in range(stage.catalogue.n_items)], [f"agent {u}" for u in range(agents)]
    return Rules(stage.policy, lambda prompt: answers[prompt], titles=titles, likes=likes)


def test_a_model_that_answers_like_the_rules_plays_the_same_loop(stage):
    lists, state = lists_of(stage), state_of(stage, "positive")
    policy = scripted(stage, len(stage.agents))
    found = browse(policy, lists, state, stage.catalogue.share, 1, 4)
    expected = browse(stage.policy, lists, state, stage.catalogue.share, 1, 4)
    for one, two in zip(found, expected):
        assert np.array_equal(one, two)
    assert policy.tally.asked > 50
    assert policy.tally.failed == 0
    assert np.mean(policy.tally.agreed) == 1


def test_answers_that_are_no_answer_are_counted_and_ruled(stage, tmp_path):
    lists, state = lists_of(stage, 4), state_of(stage)
    n = len(stage.agents)
    titles, likes = [str(i) for i in range(stage.catalogue.n_items)], [str(u) for u in range(n)]
    policy = LLMPolicy(stage.policy, lambda prompt: "I would watch the first one", titles=titles, likes=likes)
    found = browse(policy, lists, state, stage.catalogue.share, 1, 4)
    expected = browse(stage.policy, lists, state, stage.catalogue.share, 1, 4)
    assert np.array_equal(found[0], expected[0])
    assert policy.tally.failed == n
    assert policy.tally.asked == 2 * n
    empty = '{"take": [], "leave": true}'
    kept = LLMPolicy(stage.policy, lambda prompt: empty, titles=titles, likes=likes, cache=tmp_path)
    assert not browse(kept, lists, state, stage.catalogue.share, 1, 4)[0].any()
    again = LLMPolicy(stage.policy, lambda prompt: "never asked", titles=titles, likes=likes, cache=tmp_path)
    assert not browse(again, lists, state, stage.catalogue.share, 1, 4)[0].any()
    assert (again.tally.asked, again.tally.cached) == (0, n)
    poor = LLMPolicy(stage.policy, lambda prompt: empty, titles=titles, likes=likes, budget=0)
    assert np.array_equal(browse(poor, lists, state, stage.catalogue.share, 1, 4)[0], expected[0])


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"take": [0], "leave": true}', '{"take": [5], "leave": true}', '{"take": [1], "leave": "no"}',
     '{"take": [true], "leave": true}', '{"take": [1], "leave": true, "why": "x"}'],
)  # fmt: skip
def test_strict_answers(text):
    assert parse_answer(text, 4) is None


def test_prompts_may_be_answered_in_a_folder(tmp_path):
    answer = folder_answers(tmp_path)
    assert answer("hello") == ""
    (prompt,) = tmp_path.glob("*.txt")
    assert prompt.read_text() == "hello"
    prompt.with_suffix(".json").write_text("yes")
    assert answer("hello") == "yes"
    assert chat_answers("http://127.0.0.1:9", "none", seconds=0.2)("hello") == ""


def test_the_chance_is_the_formula_of_the_page(stage):
    items, agents = lists_of(stage, 4), stage.agents
    p = stage.policy.chance(items, agents.old, np.full(len(items), 2))
    u = 11
    expected = stage.policy.theta + agents.taste[u, items[u]]
    expected = expected + 0.5 * CROWD[agents.conformity[u]] * stage.policy.popular[items[u]]
    assert p[u] == pytest.approx(expit(expected))
