"""A generated world of the four Taobao files whose click probabilities are known, part by part.

`logit p = b + s1 + ... + s5`: s1 profile, ad, hour and placement, additive; s2 profile group x category; s3 mix of the
user's actions in any order; s4 touches of the target's category and brand, weighted by kind; s5 time since the last
touch and its repetition. s3 to s5 read the last 50 runs strictly before the impression. s2 to s5 are freed of
their mean per category of the ad, which an additive model could see, and of their linear trend on the parts before,
then scaled, with constants that the first users of the world give.

The bait: most clicks are followed within seconds by a `pv` of the ad's category and brand. p was computed before; who
joins by day sees the answer, and beats the ceiling. Written in chunks of users, so a larger world begins like a
smaller one with as many ads, once that has 4,000 users.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from habitus.core.atomic import new_folder, write_json
from habitus.core.config import Config
from habitus.core.progress import track
from habitus.core.seeds import generator
from habitus.data.history import BehaviourLog, History, last_runs
from habitus.data.impressions import DAY
from habitus.data.sources.taobao_ad import END_DAY, FILES, FIRST_DAY, FIRST_IMPRESSION_DAY, KINDS, PROFILE, UTC_OFFSET

CHUNK_USERS = 500
PILOT_CHUNKS = 8  # of users that fix the constants
N_TOKENS = 50
PIDS = ("430539_1007", "430548_1007")
N_DAYS = END_DAY - FIRST_DAY
IMPRESSION_START = (FIRST_IMPRESSION_DAY - FIRST_DAY) * DAY
BRANDS_PER_CATE = 8
GROUP_SHARE = np.array([2 / 7, 3 / 14, 2 / 7, 3 / 14])  # of users with a profile: gender, then age above 3
KIND_WEIGHT = np.array([1.0, 4.0, 3.0, 6.0])
MIX_WEIGHT = np.array([0.0, 3.0, -2.0, 4.0])
PARTS = ("s1", "s2", "s3", "s4", "s5")


class TaobaoAdWorld(Config):
    """How large and how clean a world is, and how strong its five parts are (standard deviations of the logit).

    >>> TaobaoAdWorld(n_users=100).n_cates
    100
    """

    n_users: int = Field(default=20_000, ge=1)
    n_ads: int = Field(default=4000, ge=20)
    n_events: float = Field(default=300, gt=0)  # per user, on average
    n_impressions: float = Field(default=23, ge=1)  # per user, on average
    rate: float = Field(default=0.05, gt=0, lt=1)
    deviations: tuple[float, float, float, float, float] = (0.358, 0.242, 0.265, 0.327, 0.358)
    bait: float = Field(default=0.6, ge=0, le=1)
    has_defects: bool = True  # blanks, NULL, no price, no profile, same-second copies, impossible times
    seed: int = 0

    @property
    def n_cates(self) -> int:
        return min(max(self.n_ads // 40, 10), 12_000)


@dataclass(frozen=True)
class _Ads:
    """The ads and what each value adds to the logit, unscaled. Category numbers begin at 0, ids at 1."""

    cate: np.ndarray
    brand: np.ndarray  # id, 0: none
    price: np.ndarray
    effect: np.ndarray  # of category, customer, campaign and ad
    by_cate: np.ndarray  # ads in the order of their category
    first: np.ndarray  # n_cates + 1 places in by_cate
    cate_cdf: np.ndarray
    taste: np.ndarray  # 5 groups x n_cates
    mix: np.ndarray  # n_cates
    log_share: np.ndarray  # n_cates
    profile: dict[str, np.ndarray]
    hour: np.ndarray


def write_taobao_ad_world(
    out: str | Path, n_users: int = 20_000, n_ads: int = 4000, seed: int = 0, defects: bool = True, **more: Any
) -> Path:
    """Write raw_sample, ad_feature, user_profile and behavior_log (.csv), truth.parquet and world.json to a new folder.

    truth.parquet has one row per row of raw_sample: p, b, s1 .. s5, is_drifting and is_narrow of the user.
    `more` are further fields of `TaobaoAdWorld`. Errors: `ConfigError` for an unknown field, `DiskError`.

    >>> import tempfile
    >>> folder = write_taobao_ad_world(tempfile.mkdtemp() + "/world", n_users=5, n_ads=20)
    >>> sorted(path.name for path in folder.iterdir())[:3]
    ['ad_feature.csv', 'behavior_log.csv', 'raw_sample.csv']
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    world = TaobaoAdWorld.parse({"n_users": n_users, "n_ads": n_ads, "seed": seed, "has_defects": defects, **more})
    ads = _make_ads(world)
    law = _fit_law(world, ads)
    counts = dict.fromkeys(FILES, 0)
    with new_folder(out) as folder:
        sinks = {name: (folder / f"{name}.csv").open("wb") for name in FILES}
        truth = None
        try:
            for name, sink in sinks.items():
                sink.write((",".join(FILES[name]) + (" \n" if name == "user_profile" else "\n")).encode())
            counts["ad_feature"] = _append(sinks["ad_feature"], _ad_rows(world, ads))
            n_chunks = -(-world.n_users // CHUNK_USERS)
            for chunk in track(range(n_chunks), "drawing users"):
                tables, known = _chunk_tables(world, ads, law, chunk)
                for name, table in tables.items():
                    counts[name] += _append(sinks[name], table)
                table = pa.table(known)
                truth = truth or pq.ParquetWriter(folder / "truth.parquet", table.schema)
                truth.write_table(table)
        finally:
            for sink in sinks.values():
                sink.close()
            if truth is not None:
                truth.close()
        write_json(folder / "world.json", {"world": world.model_dump(mode="json"), "rows": counts, "b": law.b})
    return Path(out)


def _make_ads(world: TaobaoAdWorld) -> _Ads:
    draw = generator(world.seed, "ads")
    n, n_cates = world.n_ads, world.n_cates
    share = (np.arange(1, n_cates + 1) + 5.0) ** -0.7
    cdf = (share / share.sum()).cumsum()
    cate = _pick(cdf, draw.random(n))
    brand = 1 + cate * BRANDS_PER_CATE + draw.integers(0, BRANDS_PER_CATE, n)
    brand[(draw.random(n) < 0.3) & world.has_defects] = 0
    price = np.round(np.exp(draw.normal(5, 1.2, n)), 2)
    price[(draw.random(n) < 0.01) & world.has_defects] = 0
    e = [draw.normal(0, scale, n) for scale in (0.5, 0.3, 0.2, 0.2)]
    effect = e[0][:n_cates][cate] + e[1][np.arange(n) // 5] + e[2][np.arange(n) // 2] + e[3]
    order = np.argsort(cate, kind="stable")
    profile = {name: draw.normal(0, 0.2, 100) for name in PROFILE}
    taste, in_cate = draw.normal(0, 1, (5, n_cates)), np.bincount(cate, minlength=n_cates) / n
    taste[:4] -= GROUP_SHARE @ taste[:4]
    taste -= (taste @ in_cate)[:, None]  # what the group or the category adds alone belongs to s1
    return _Ads(
        cate, brand, price, effect, order, np.searchsorted(cate[order], np.arange(n_cates + 1)), cdf,
        taste, draw.normal(0, 1, n_cates), np.log(share), profile, draw.normal(0, 0.3, 24),
    )  # fmt: skip


def _users(world: TaobaoAdWorld, draw: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Draw profiles (-1: blank) and habits of the users of a chunk."""
    gender, age = draw.integers(1, 3, n), draw.integers(0, 7, n)
    found = {
        "cms_segid": draw.integers(0, 97, n),
        "cms_group_id": (gender - 1) * 6 + np.minimum(age, 6),
        "final_gender_code": gender,
        "age_level": age,
        "pvalue_level": np.where((draw.random(n) < 0.54) & world.has_defects, -1, draw.integers(1, 4, n)),
        "shopping_level": draw.integers(1, 4, n),
        "occupation": (draw.random(n) < 0.06).astype(np.int64),
        "new_user_class_level": np.where((draw.random(n) < 0.32) & world.has_defects, -1, draw.integers(1, 5, n)),
    }
    found["has_profile"] = (draw.random(n) >= 0.058) | (not world.has_defects)
    found["is_drifting"], found["is_narrow"] = draw.random(n) < 0.2, draw.random(n) < 0.3
    found["n_interests"] = np.where(found["is_narrow"], 2, draw.integers(3, 9, n))
    found["action"] = 0.047 * np.exp(draw.normal(-0.18, 0.6, n))
    size = np.exp(draw.normal(np.log(world.n_events) - 0.32, 0.8, n)) * (draw.random(n) >= 0.02)
    found["n_events"] = np.minimum(size, 12 * world.n_events).astype(np.int64)
    found["n_impressions"] = 1 + draw.poisson(draw.gamma(1.2, (world.n_impressions - 1) / 1.2, n))
    return found


def _events(
    world: TaobaoAdWorld, ads: _Ads, draw: np.random.Generator, users: dict[str, np.ndarray], likes: np.ndarray
) -> BehaviourLog:
    """Draw sessions of a user in one category each; times in seconds from the first day's midnight."""
    n_each = users["n_events"]
    owner, m = np.repeat(np.arange(len(n_each)), n_each), int(n_each.sum())
    starts = draw.random(m) < 1 / 8
    starts[(n_each.cumsum() - n_each)[n_each > 0]] = True
    session = starts.cumsum() - 1
    first = np.flatnonzero(starts)
    begin = draw.integers(0, N_DAYS, len(first)) * DAY + _clock(draw, len(first))
    of = owner[first]
    slot = (draw.random(len(first)) ** 1.5 * users["n_interests"][of]).astype(np.int64)
    cate_of = likes[of, slot + 8 * (users["is_drifting"][of] & (begin >= 18 * DAY))]
    brand_of = draw.integers(0, BRANDS_PER_CATE, len(first))
    step = np.where(starts, 0, np.ceil(-40 * np.log1p(-draw.random(m, np.float32)))).cumsum()
    time = np.minimum(begin[session] + step - step[first][session], N_DAYS * DAY - 1).astype(np.int64)
    u = draw.random(m, np.float32)
    cate = cate_of[session]
    stray = np.flatnonzero(u < 0.15)
    cate[stray] = _pick(ads.cate_cdf, draw.random(len(stray)))
    place = brand_of[session]
    other = np.flatnonzero(draw.random(m, np.float32) < 0.4)
    place[other] = draw.integers(0, BRANDS_PER_CATE, len(other))
    acted = draw.random(m, np.float32) / users["action"][owner]
    kind = np.where(acted >= 1, 0, np.where(acted < 0.47, 1, np.where(acted < 0.74, 2, 3)))
    n_copies = np.where(
        world.has_defects & (kind == 0) & (draw.random(m, np.float32) < 0.04), draw.integers(2, 5, m), 1
    )
    owner, time, kind, cate, place = (np.repeat(x, n_copies) for x in (owner, time, kind, cate, place))
    brand = 1 + cate * BRANDS_PER_CATE + place
    return BehaviourLog.build(owner, time, kind, cate + 1, brand, n_users=len(n_each), kinds=KINDS)


def _impressions(
    ads: _Ads, draw: np.random.Generator, users: dict[str, np.ndarray], likes: np.ndarray, log: BehaviourLog
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw user, time, ad and placement of each impression, by user and time."""
    user = np.repeat(np.arange(len(likes)), users["n_impressions"])
    n = len(user)
    time = draw.integers(FIRST_IMPRESSION_DAY - FIRST_DAY, N_DAYS, n) * DAY + _clock(draw, n)
    n_of = np.diff(log.offsets)[user]
    if log.n_events:
        near = log.time[np.minimum(log.offsets[user] + draw.integers(0, 2**40, n) % np.maximum(n_of, 1),
                                   log.n_events - 1)] + draw.integers(5, 900, n)  # fmt: skip
        is_near = (n_of > 0) & (draw.random(n) < 0.9) & (near >= IMPRESSION_START) & (near < N_DAYS * DAY)
        time = np.where(is_near, near, time)
    order = np.argsort((user << 31) + time, kind="stable")
    time = time[order]
    slot = (draw.random(n) ** 1.5 * users["n_interests"][user]).astype(np.int64)
    liked = likes[user, slot + 8 * (users["is_drifting"][user] & (draw.random(n) < 0.5))]
    n_in = np.diff(ads.first)[liked]
    u = draw.random(n)
    ad = (draw.random(n) * len(ads.cate)).astype(np.int64)
    at = ads.first[liked] + (u * n_in).astype(np.int64)
    ad = np.where((n_in > 0) & (draw.random(n) < 0.6), ads.by_cate[np.minimum(at, len(ads.cate) - 1)], ad)
    return user, time, ad, draw.integers(0, 2, n)


def _raw_parts(ads: _Ads, users: dict[str, np.ndarray], log: BehaviourLog, shown: tuple[np.ndarray, ...]) -> np.ndarray:
    """Give log share of the target's category and the five parts, unscaled: float64 [6, n]."""
    user, time, ad, pid = shown
    cate = ads.cate[ad]
    known = users["has_profile"][user]
    additive = ads.effect[ad] + ads.hour[time % DAY // 3600] + 0.3 * pid
    for name in PROFILE:
        additive = additive + ads.profile[name][np.where(known, users[name][user] + 2, 0)]
    group = (users["final_gender_code"] - 1) * 2 + (users["age_level"] > 3)
    taste = ads.taste[np.where(known, group[user], 4), cate]
    first, last, is_pad = last_runs(History.before(log, user, time), N_TOKENS)
    if not log.n_events:
        nothing = np.zeros(len(user))
        return np.stack([ads.log_share[cate], additive, taste, nothing, nothing, nothing])
    kind, of = log.kind[first], log.cate[first]
    valid = ~is_pad
    n_valid = np.maximum(valid.sum(axis=1), 1)
    mix = ((ads.mix[of - 1] + MIX_WEIGHT[kind]) * valid).sum(axis=1) / n_valid
    same = (of == cate[:, None] + 1) & valid
    is_brand = same & (log.brand[first] == ads.brand[ad][:, None])
    touched = np.log1p((KIND_WEIGHT[kind] * same).sum(axis=1) + (KIND_WEIGHT[kind] * is_brand).sum(axis=1))
    return np.stack([ads.log_share[cate], additive, taste, mix, touched, _timing(log, time, first, last, same)])


def _timing(log: BehaviourLog, time: np.ndarray, first: np.ndarray, last: np.ndarray, same: np.ndarray) -> np.ndarray:
    """A fresh touch and one of four days ago raise the wish, one of yesterday lowers it; a long run raises it."""
    n = len(time)
    place = N_TOKENS - 1 - np.argmax(same[:, ::-1], axis=1)  # the last run of the target's category
    has = same.any(axis=1)
    begin, end = first[np.arange(n), place], last[np.arange(n), place]
    days = np.maximum(time - log.time[end], 1) / DAY
    bumps = [np.exp(-((np.log2(days / at)) ** 2) / 0.8) for at in (1.0, 4.0)]
    value = 1.5 * np.exp(-days * 8) - bumps[0] + 1.2 * bumps[1] + 0.4 * np.log2(np.minimum(end - begin + 1, 8))
    return np.where(has, value - value[has].mean() if has.any() else 0.0, 0.0)


@dataclass(frozen=True)
class _Law:
    """From raw parts to parts: means per category of the ad, a lower-triangular map, and b for the wanted rate."""

    means: np.ndarray  # 6 x n_cates, 0 for log share and s1
    made: np.ndarray  # 5 x 7
    b: float

    def parts(self, raw: np.ndarray, cate: np.ndarray) -> np.ndarray:
        """Give s1 .. s5 [5, n] of raw parts [6, n]."""
        return self.made @ np.vstack([np.ones(len(cate)), raw - self.means[:, cate]])


def _fit_law(world: TaobaoAdWorld, ads: _Ads) -> _Law:
    """Fit the constants on the first users."""
    drawn = [_drawn(world, ads, chunk) for chunk in range(min(PILOT_CHUNKS, -(-world.n_users // CHUNK_USERS)))]
    raw = np.concatenate([each[-1] for each in drawn], axis=1)
    cate = ads.cate[np.concatenate([each[4][2] for each in drawn])]
    count = np.maximum(np.bincount(cate, minlength=world.n_cates), 1)
    means = np.stack([np.bincount(cate, part, minlength=world.n_cates) / count for part in raw])
    means[:2] = 0
    raw = raw - means[:, cate]
    n = raw.shape[1]
    basis = np.vstack([np.ones(n), raw])  # constant, share, five raw parts
    made = np.zeros((5, 7))
    for part in range(5):
        before = basis[:2] if part == 0 else np.vstack([basis[:2], made[:part] @ basis])
        slope = np.linalg.lstsq(before.T, raw[part + 1], rcond=None)[0]
        row = np.zeros(7)
        row[part + 2] = 1
        row[:2] -= slope[:2] if part else (slope[0], 0)  # the share may stay in the additive part
        if part:
            row -= slope[2:] @ made[:part]
        spread = (row @ basis).std()
        row[0] -= (row @ basis).mean()
        made[part] = row * world.deviations[part] / spread if spread > 1e-9 else 0.0
    total = (made @ basis).sum(axis=0)
    low, high = -20.0, 20.0
    for _ in range(60):
        b = (low + high) / 2
        low, high = (b, high) if _logistic(b + total).mean() < world.rate else (low, b)
    return _Law(means, made, b)


def _drawn(world: TaobaoAdWorld, ads: _Ads, chunk: int) -> tuple[Any, ...]:
    """Draw one chunk up to the raw parts."""
    draw = generator(world.seed, "users", chunk)
    n = min(CHUNK_USERS, world.n_users - chunk * CHUNK_USERS)
    users = _users(world, draw, CHUNK_USERS)  # whole chunks, so that a larger world begins like this one
    likes = _pick(ads.cate_cdf, draw.random((CHUNK_USERS, 16)))
    log = _events(world, ads, draw, users, likes)
    shown = _impressions(ads, draw, users, likes, log)
    raw = _raw_parts(ads, users, log, shown)
    kept = int(np.searchsorted(shown[0], n))
    return n, draw, users, log, tuple(x[:kept] for x in shown), raw[:, :kept]


def _chunk_tables(
    world: TaobaoAdWorld, ads: _Ads, law: _Law, chunk: int
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Give the rows of three files and of the truth for one chunk of users."""
    n, _, users, log, (user, time, ad, pid), raw = _drawn(world, ads, chunk)
    draw = generator(world.seed, "labels", chunk)
    parts = law.parts(raw, ads.cate[ad])
    p = _logistic(law.b + parts.sum(axis=0))
    clicked = draw.random(len(p)) < p
    baited = np.flatnonzero(clicked & (draw.random(len(p)) < world.bait))
    seconds = FIRST_DAY * DAY - UTC_OFFSET
    m = int(log.offsets[n])
    who = np.repeat(np.arange(n), np.diff(log.offsets[: n + 1]))
    extra = time[baited] + draw.integers(1, 31, len(baited))
    events = {
        "user": np.concatenate([who, user[baited]]) + 1 + chunk * CHUNK_USERS,
        "time_stamp": np.concatenate([log.time[:m].astype(np.int64), extra]) + seconds,
        "btag": np.concatenate([log.kind[:m], np.zeros(len(baited), np.uint8)]),
        "cate": np.concatenate([log.cate[:m], ads.cate[ad[baited]] + 1]),
        "brand": np.concatenate([log.brand[:m], ads.brand[ad[baited]]]),
    }
    if world.has_defects:
        bad = draw.integers(0, max(len(events["user"]), 1), len(events["user"]) // 2000)
        lost = {name: values[bad] for name, values in events.items()}
        lost["time_stamp"] = draw.choice([0, -1, 2_147_000_000, seconds - 5], len(bad))
        events = {name: np.concatenate([values, lost[name]]) for name, values in events.items()}
    order = draw.permutation(len(events["user"]))
    events = {name: values[order] for name, values in events.items()}
    order = draw.permutation(len(user))
    shown = {"user": user + 1 + chunk * CHUNK_USERS, "time_stamp": time + seconds, "adgroup_id": ad + 1}
    shown |= {"pid": pid, "nonclk": 1 - clicked, "clk": clicked.astype(np.int64)}
    known = {"p": p, "b": np.full(len(p), law.b), **dict(zip(PARTS, parts, strict=True))}
    known |= {name: users[name][user] for name in ("is_drifting", "is_narrow")}
    there = np.flatnonzero(users["has_profile"][:n])
    profiles = {"userid": there + 1 + chunk * CHUNK_USERS} | {name: users[name][there] for name in PROFILE}
    tables = {"raw_sample": {name: values[order] for name, values in shown.items()}, "behavior_log": events}
    return tables | {"user_profile": profiles}, {name: values[order] for name, values in known.items()}


def _ad_rows(world: TaobaoAdWorld, ads: _Ads) -> dict[str, np.ndarray]:
    at = np.arange(world.n_ads)
    ids = {"adgroup_id": at + 1, "cate_id": ads.cate + 1, "campaign_id": at // 2 + 1, "customer": at // 5 + 1}
    return ids | {"brand": ads.brand, "price": ads.price}


def _append(sink: Any, columns: dict[str, np.ndarray]) -> int:
    """Append rows to an open CSV file; blanks and NULL as the publisher writes them."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    table = {name: pa.array(values) for name, values in columns.items()}
    for name, words in (("btag", KINDS), ("pid", PIDS)):
        if name in table:
            table[name] = pa.array(words).take(table[name])
    if "price" in table:
        brand = table["brand"]
        table["brand"] = pc.replace_substring_regex(pc.cast(brand, pa.string()), "^0$", "NULL")  # type: ignore[reportAttributeAccessIssue]
    for name in ("pvalue_level", "new_user_class_level"):
        if name in table:
            table[name] = pa.array(columns[name], mask=columns[name] == -1)
    options = csv.WriteOptions(include_header=False, quoting_style="none")
    csv.write_csv(pa.table(table), sink, options)
    return len(next(iter(columns.values())))


def _clock(draw: np.random.Generator, n: int) -> np.ndarray:
    """Draw a second of the day; evenings are busy."""
    return np.minimum(draw.triangular(0, 20.5, 24, n) * 3600, DAY - 1).astype(np.int64)


def _pick(cdf: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    return np.minimum(np.searchsorted(cdf, uniform), len(cdf) - 1)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
