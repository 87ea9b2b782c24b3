"""Inputs of an impression come from before it: tokens, match numbers, click rates; and what was fitted stays fitted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from habitus.apps.ctr.examples import Examples, tokens
from habitus.apps.ctr.features import default_days, make_examples, midnight_history, some_users
from habitus.apps.ctr.match import NEVER, WINDOWS, match_columns, match_names
from habitus.apps.ctr.spec import FeatureSpec
from habitus.apps.ctr.target_stats import FIRST_RATE, stat_columns, target_stats
from habitus.core.errors import ArtifactError, ConfigError, CutoffError, FingerprintError
from habitus.data.history import BehaviourLog
from habitus.data.impressions import Impressions

KINDS = ("pv", "cart", "fav", "buy")
START = 17_292 * 86_400


def _table(log_rows: np.ndarray, shown: np.ndarray, label: np.ndarray) -> Impressions:
    """log_rows: user, time, kind, cate, brand; shown: user, time, ad."""
    order = np.lexsort((shown[:, 1], shown[:, 0]))
    shown, label = shown[order], label[order]
    user, time, ad = shown.T
    return Impressions(
        user=user.astype(np.int32), time=time, label=label.astype(np.int8), source=np.arange(len(user)),
        ids={"user": user, "adgroup": ad, "final_gender_code": user % 3, "age_level": user % 7},
        cate=(ad % 5 + 1).astype(np.int32), brand=(ad % 3).astype(np.int32),
        price=np.where(ad % 7 == 0, np.nan, ad * 2.0),
        has_profile=user % 4 > 0, log=BehaviourLog.build(*log_rows.T, n_users=12, kinds=KINDS), truth=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eleven users with events (one without), same seconds, bursts, and impressions at the second of an event."""
    draw = np.random.default_rng(3)
    n = 3000
    user = draw.integers(0, 11, n)
    time = START - 86_400 * 14 + draw.integers(0, 22 * 24, n) * 3600 + draw.integers(0, 4, n)
    rows = np.stack([user, time, draw.integers(0, 4, n), draw.integers(1, 6, n), draw.integers(1, 3, n)], 1)
    rows = np.concatenate([rows, rows[:200]])
    m = 400
    shown = np.stack([draw.integers(0, 12, m), START + draw.integers(0, 8 * 24, m) * 3600, draw.integers(1, 30, m)], 1)
    return rows, shown, (draw.random(m) < 0.2).astype(np.int64)


def _all(drawn) -> tuple[Impressions, Examples]:
    shown = _table(*drawn)
    parts = make_examples(shown, min_count=2)
    spec = parts["train"].spec
    whole = make_examples(shown, spec=spec, days={"all": (0, 10**6)})["all"]
    return shown, whole


def _inputs(examples: Examples, rows: np.ndarray) -> list[np.ndarray]:
    return [examples.static[rows], examples.dense[rows], examples.target[rows],
            *tokens(examples, rows, n_tokens=9), *tokens(examples, rows, n_tokens=9, collapse=False)]  # fmt: skip


@pytest.mark.parametrize("change", ["shuffled", "deleted", "planted"])
def test_rows_at_or_after_an_impression_never_reach_it(drawn, change: str) -> None:
    rows, shown, label = drawn
    table, before = _all(drawn)
    cut = START + 5 * 86_400 + 7 * 3600  # an hour at which events and impressions lie
    late = rows[:, 1] >= cut
    assert (rows[:, 1] == cut).any()
    draw = np.random.default_rng(0)
    other = rows.copy()
    if change == "shuffled":
        other[late, 2:] = draw.permutation(other[late, 2:])
    elif change == "deleted":
        other = rows[~late]
    else:  # the target of every impression, touched in the same second and right after
        extra = np.stack([shown[:, 0], shown[:, 1], shown[:, 0] * 0 + 3, shown[:, 2] % 5 + 1, shown[:, 2] % 3], 1)
        extra = np.concatenate([extra, extra + np.array([0, 5, 0, 0, 0])])
        other = np.concatenate([rows, extra[extra[:, 1] >= cut]])
    # labels of the day of the cut and later are wrong, too
    changed = np.where(shown[:, 1] >= START + 5 * 86_400, 1 - label, label)
    after = make_examples(_table(other, shown, changed), spec=before.spec, days={"all": (0, 10**6)})["all"]
    keep = np.flatnonzero(table.time <= cut)
    assert 0 < len(keep) < len(table)
    for a, b in zip(_inputs(before, keep), _inputs(after, keep), strict=True):
        assert np.array_equal(a, b)
    later = np.flatnonzero(table.time > cut + 3600)
    same = [np.array_equal(a, b) for a, b in zip(_inputs(before, later), _inputs(after, later), strict=True)]
    assert not all(same)  # the change was real


def test_match_numbers_are_those_of_a_plain_loop(drawn) -> None:
    shown = _table(*drawn)
    names = match_names(KINDS)
    found = dict(zip(names, match_columns(shown).T, strict=True))
    log = shown.log
    for row in range(0, len(shown), 9):
        begin, end = log.offsets[shown.user[row]], log.offsets[shown.user[row] + 1]
        part = slice(begin, end)
        past = log.time[part] < shown.time[row]
        gap = shown.time[row] - log.time[part].astype(np.int64)
        for what, values, target in (("cate", log.cate, shown.cate), ("brand", log.brand, shown.brand)):
            same = past & (values[part] == target[row]) & (target[row] > 0)
            for code, kind in enumerate(KINDS):
                here = same & (log.kind[part] == code)
                for name, length in WINDOWS.items():
                    n = (here & (gap <= length)).sum()
                    assert found[f"{what}_{kind}_{name}"][row] == pytest.approx(np.log1p(n), abs=1e-6)
                last = gap[here].min() if here.any() else NEVER
                assert found[f"{what}_{kind}_since"][row] == pytest.approx(np.log(last), abs=1e-5)
        counts = np.unique(log.cate[part][past], return_counts=True)[1]
        share = counts / max(counts.sum(), 1)
        assert found["cate_entropy"][row] == pytest.approx(-(share * np.log(share)).sum(), abs=1e-5)
        days = max(len(np.unique(log.time[part][past] // 86_400)), 1)
        assert found["events_per_day"][row] == pytest.approx(np.log1p(counts.sum() / days), abs=1e-5)
    assert (found["history_length"][shown.user == 11] == 0).all()


@pytest.mark.parametrize("delay", [0, 3])
def test_click_rates_use_complete_earlier_days_whose_labels_have_closed(drawn, delay: int) -> None:
    shown = dataclasses.replace(_table(*drawn), delay=delay)
    columns = stat_columns(shown)
    day, label, wait = shown.day, shown.label, max(1, delay)
    for row in range(0, len(shown), 7):
        known = day + wait <= day[row]
        overall = label[known].mean() if known.any() else FIRST_RATE
        same = known & (shown.cate == shown.cate[row]) & (shown.user % 3 == shown.user[row] % 3)
        rate = (label[same].sum() + 50 * overall) / (same.sum() + 50)
        assert columns["stat_cate_gender_rate"][row] == pytest.approx(rate)
        assert columns["stat_cate_gender_views"][row] == pytest.approx(np.log1p(same.sum()))
    examples = make_examples(shown, min_count=2)["train"]
    assert np.array_equal(examples.has_stats, examples.day >= day.min() + wait)
    with pytest.raises(ConfigError):
        target_stats(day, day, label, delay=-1)


def test_parts_are_six_days_then_one_then_one_and_codes_fit_their_tables(drawn) -> None:
    shown = _table(*drawn)
    parts = make_examples(shown, min_count=5)
    assert {name: sorted({int(d) - 17_292 for d in part.day}) for name, part in parts.items()} == {
        "train": [0, 1, 2, 3, 4, 5], "valid": [6], "test": [7]}  # fmt: skip
    assert sum(map(len, parts.values())) == len(shown)
    for part in parts.values():
        assert np.isfinite(part.dense).all()
        assert (part.static >= 0).all()
        assert (part.static.max(axis=0) < part.spec.static_sizes).all()
        codes, is_pad, gap = tokens(part, np.arange(len(part)), n_tokens=6)
        assert (codes.max(axis=(0, 1)) < part.spec.token_sizes).all()
        assert (codes[is_pad] == 0).all()
        assert (gap[~is_pad] >= 1).all()
    train = shown.day < 17_298
    rare = [ad for ad, n in zip(*np.unique(shown.ids["adgroup"][train], return_counts=True), strict=True) if n < 5]
    place = parts["train"].spec.static_names.index("adgroup")
    is_rare = np.isin(parts["train"].static[:, place], 0)
    assert np.array_equal(is_rare, np.isin(shown.ids["adgroup"][train], rare))


def test_history_and_target_share_one_vocabulary_and_rows_keep_their_order(drawn) -> None:
    shown, whole = _all(drawn)
    rows = np.random.default_rng(1).permutation(len(whole))[:50]
    codes, is_pad, _ = tokens(whole, rows, n_tokens=1, collapse=False)
    last = shown.log.cate[whole.history.hist_end[rows] - 1]
    has = ~is_pad[:, 0]
    assert np.array_equal(codes[has, 0, 0], whole.spec.code("cate", last[has]))
    some = whole.rows(rows)
    for a, b in zip(_inputs(whole, rows), _inputs(some, np.arange(50)), strict=True):
        assert np.array_equal(a, b)
    longer = tokens(whole, rows, n_tokens=12)[0][:, -9:]
    assert np.array_equal(longer, tokens(whole, rows, n_tokens=9)[0])


def test_an_empty_history_an_unseen_ad_and_no_profile_have_inputs(drawn) -> None:
    shown, whole = _all(drawn)
    strange = shown.rows(shown.user == 11)
    strange = dataclasses.replace(strange, ids={**strange.ids, "adgroup": np.full(len(strange), 99)})
    found = make_examples(strange, spec=whole.spec, days={"all": (0, 10**6)})["all"]
    assert len(found) > 0
    assert (found.static[:, 1] == 0).all()
    assert tokens(found, np.arange(len(found)), n_tokens=4)[1].all()
    empty = BehaviourLog.build(*np.zeros((5, 0), np.int64), n_users=12, kinds=KINDS)
    nothing = make_examples(dataclasses.replace(shown, log=empty), spec=whole.spec, days={"all": (0, 10**6)})["all"]
    assert tokens(nothing, np.arange(5), n_tokens=4)[1].all()


def test_a_spec_is_saved_and_its_fingerprint_follows_its_values(drawn, tmp_path: Path) -> None:
    shown, whole = _all(drawn)
    whole.spec.save(tmp_path / "spec.npz")
    again = FeatureSpec.load(tmp_path / "spec.npz")
    assert again.fingerprint == whole.spec.fingerprint
    other = make_examples(shown, min_count=3)["train"].spec
    assert other.fingerprint != again.fingerprint
    same = make_examples(shown, spec=again, days={"all": (0, 10**6)})["all"]
    assert np.array_equal(same.static, whole.static)
    (tmp_path / "bad.npz").write_bytes(b"no")
    with pytest.raises(ArtifactError):
        FeatureSpec.load(tmp_path / "bad.npz")
    with pytest.raises(FingerprintError):
        make_examples(shown, features="static", spec=again)


def test_the_dial_and_days_are_checked(drawn) -> None:
    shown = _table(*drawn)
    with pytest.raises(ConfigError, match="one of: static"):
        make_examples(shown, features="+more")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="lurm"):
        make_examples(shown, features="+lurm")
    with pytest.raises(CutoffError):
        make_examples(shown, days={"train": (0, 5)})
    with pytest.raises(CutoffError):
        default_days(shown.rows(shown.day == 17_292))
    vectors = np.ones((len(shown), 3), np.float32)
    assert make_examples(shown, features="+lurm", lurm=vectors)["train"].spec.dense_names[-1] == "lurm_2"
    assert make_examples(shown, features="static")["train"].spec.dense_names == ("log_price",)


def test_what_a_lurm_vector_may_read_ends_at_midnight(drawn) -> None:
    rows, shown, label = drawn
    cut = START + 3 * 86_400
    kept = rows[rows[:, 1] < cut]
    whole, less = (_table(log, shown, label) for log in (rows, kept))
    is_day = whole.day == 17_295
    assert is_day.any()
    a, b = midnight_history(whole).of(is_day), midnight_history(less).of(is_day)
    assert np.array_equal(a.hist_end - a.user_start, b.hist_end - b.user_start)
    for i, j, k, m in zip(a.user_start, a.hist_end, b.user_start, b.hist_end, strict=True):
        assert np.array_equal(whole.log.cate[i:j], less.log.cate[k:m])
    assert (a.hist_end < whole.log.offsets[whole.user[is_day] + 1]).any()


def test_a_share_of_users_keeps_whole_users_and_pieces_change_nothing(drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _table(*drawn)
    some = some_users(shown, 0.5)
    kept = np.unique(some.user)
    assert 0 < len(kept) < 12
    assert np.isin(shown.user, kept).sum() == len(some)
    whole = make_examples(shown, min_count=2)["train"]
    monkeypatch.setattr("habitus.apps.ctr.features.CHUNK", 7)
    monkeypatch.setattr("habitus.apps.ctr.spec._ROWS", 11)
    pieces = make_examples(shown, min_count=2)["train"]
    assert pieces.spec.fingerprint == whole.spec.fingerprint
    assert np.array_equal(pieces.dense, whole.dense)
