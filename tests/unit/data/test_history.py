"""Looking up what lies strictly before an instant, and the index of runs and repeats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from habitus.core.errors import StoreError
from habitus.data import history as module
from habitus.data.history import BehaviourLog, History, last_runs, rows_before, user_stretches

EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 1), st.integers(1, 3), st.integers(1, 2)),
    max_size=40,
)
ASKED = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 45)), max_size=12)


def _log(events: list[tuple[int, ...]], scale: int = 600) -> BehaviourLog:
    rows = np.array(events, np.int64).reshape(-1, 5)
    rows[:, 1] *= scale
    return BehaviourLog.build(*rows.T, n_users=4, kinds=("pv", "buy"))


@given(EVENTS, ASKED, st.sampled_from([0, 1, 600]), st.sampled_from([1, 5, 1000]))
@settings(max_examples=60, deadline=None)
def test_history_ends_where_a_plain_loop_says(events, asked, guard, chunk) -> None:
    log = _log(events)
    user, time = np.array(asked, np.int64).reshape(-1, 2).T
    time = time * 600
    found = History.before(log, user, time, guard=guard).hist_end.tolist()
    expected = []
    for who, when in zip(user, time, strict=True):
        begin, end = log.offsets[who], log.offsets[who + 1]
        expected.append(begin + sum(int(t) < when - guard for t in log.time[begin:end]))
    assert found == expected
    assert [a for a, _ in user_stretches(log.offsets, chunk)][:1] == [0]


@given(EVENTS, st.integers(0, 3), st.integers(0, 45), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_last_runs_are_those_of_a_plain_loop(events, user, minute, n_tokens) -> None:
    log = _log(events)
    time = minute * 600
    history = History.before(log, np.array([user]), np.array([time]))
    runs: list[list[int]] = []
    for row in range(int(history.user_start[0]), int(history.hist_end[0])):
        same = runs and all(c[row] == c[row - 1] for c in (log.kind, log.cate, log.brand))
        if same and log.time[row] - log.time[row - 1] <= module.RUN_GAP:
            runs[-1].append(row)
        else:
            runs.append([row])
    first, last, is_pad = last_runs(history, n_tokens)
    expected = [(run[0], run[-1]) for run in runs[-n_tokens:]]
    assert list(zip(first[~is_pad].tolist(), last[~is_pad].tolist(), strict=True)) == expected
    for row in range(log.n_events):
        owner = int(np.searchsorted(log.offsets, row, side="right")) - 1
        earlier = log.cate[log.offsets[owner] : row]
        assert log.repeats[row] == (earlier == log.cate[row]).sum()


def test_stretches_never_cut_a_user_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    user, time = draw.integers(0, 50, 2000), draw.integers(0, 10_000, 2000)
    log = BehaviourLog.build(user, time, user * 0, user * 0 + 1, user * 0 + 1, n_users=50, kinds=("pv",))
    asked = draw.integers(0, 50, 300), draw.integers(-5, 11_000, 300)
    whole = rows_before(log, *asked)
    monkeypatch.setattr(module, "user_stretches", lambda offsets: user_stretches(offsets, 100))
    assert len(user_stretches(log.offsets, 100)) > 5
    assert rows_before(log, *asked).tolist() == whole.tolist()


def test_a_user_outside_is_an_error() -> None:
    one = np.array([1])
    with pytest.raises(StoreError, match="users 0 "):
        BehaviourLog.build(one, one, one, one, one, n_users=1, kinds=("pv",))
    with pytest.raises(StoreError, match="int32"):
        BehaviourLog.build(one * 0, one * 2**31, one, one, one, n_users=1, kinds=("pv",))
