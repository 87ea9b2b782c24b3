"""Generated fortnights against what happened, beside HistoryDensity; events per second with and without the cache.

python -m benchmarks.generate --log journey --seed 0     logs (journey, stats, rules), one seed
python -m benchmarks.generate --speed                    events per second, cached and uncached, window 128
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks._event_logs import DATA, generation_log, generation_split, train
from benchmarks.record import record
from habitus.core.seeds import generator
from habitus.data.calendar import to_date
from habitus.data.store import Store
from habitus.metrics.sequences import (
    Timeline,
    bigram_divergence,
    copied_share,
    entropy_share,
    gap_distance,
    jensen_shannon,
    otd,
    t_map,
    total_variation,
)
from habitus.models.artifact import load_artifact
from habitus.models.behavegpt import BehaveGPT, BehaveGPTConfig
from habitus.models.history_density import HistoryDensity, HistoryDensityConfig
from habitus.tasks.event_recipe import EventRecipe
from habitus.tasks.generate import Futures
from habitus.tasks.rollout import DrawConfig
from habitus.tasks.run import open_run
from habitus.tokens.event_loader import EventLoader, assemble_events, last_states, prepare_events
from habitus.tokens.event_split import EventSplit
from habitus.tokens.events import EventSpec, EventTokenConfig, fit_event_spec
from habitus.tokens.gaps import GapBins
from habitus.training.objectives.joint import JointEvents

DAYS, N_USERS = 14, 1000
EPOCHS = {"journey": 8, "stats": 4, "rules": 10}
UNIT = 86_400.0  # one insertion costs as much as a day of delay


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--log", choices=tuple(EPOCHS), nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--epochs", type=int, help="instead of those of the log")
    parser.add_argument("--run", help="a trained run to judge instead")
    options = parser.parse_args()
    if options.speed:
        speed(options.size)
    if options.run:
        of_run(options.run, options.seed, options.samples)
    elif options.size == "small":
        study("rules", 0, 2, n_users=50, epochs=1)
    elif options.log is None and not options.speed:
        print("  name some: --log journey stats rules; or --speed")
    for name in options.log or ():
        if name != "rules" and not DATA.is_dir():
            print(f"  {name}: left out, no folder {DATA}; set HABITUS_DATA")
        else:
            study(name, options.seed, options.samples, n_users=N_USERS, epochs=options.epochs or EPOCHS[name])


def study(name: str, seed: int, n_samples: int, *, n_users: int, epochs: int) -> None:
    """Train on train, draw from the day before the test, compare with the test's first fortnight."""
    store, split = generation_log(name), generation_split(name)
    tokens = EventTokenConfig.parse({"length": 128, "min_count": 2})
    spec = fit_event_spec(store, tokens, split)
    compare(name, trained(store, spec, split, seed, epochs), spec, store, split, seed, n_samples, n_users)


def of_run(path: str, seed: int, n_samples: int) -> None:
    """Compare the futures of a run that `habitus train` made."""
    run = open_run(path)
    artifact = load_artifact(run.artifact_path)
    spec, model = EventSpec.from_json(artifact.spec), artifact.members[0]
    assert isinstance(model, BehaveGPT)
    assert isinstance(run.recipe, EventRecipe)
    compare(run.recipe.name, model, spec, run.store, run.recipe.split, seed, n_samples, N_USERS)


def compare(
    name: str,
    model: BehaveGPT,
    spec: EventSpec,
    store: Store,
    split: EventSplit,
    seed: int,
    n_samples: int,
    n_users: int,
) -> None:
    """Draw from the day before the test; print figures beside HistoryDensity and the past fortnight once more."""
    cutoff = split.first_day("test")
    assert cutoff is not None
    cutoff -= 1
    first_day = store.users["first_day"].cast(pl.Int32).to_numpy()
    users = np.flatnonzero(first_day <= cutoff)
    users = np.sort(generator(0, "users", name).permutation(users)[:n_users])
    began = time.perf_counter()
    draws = DrawConfig.parse({"seed": seed, "max_events": 500})
    futures = Futures(model, spec, store, users, cutoff, DAYS, n_samples, draws)
    drawn = [futures.draw(low, high) for low, high in futures.chunks()]
    seconds = time.perf_counter() - began
    told = _numbered(pl.concat([events for events, _, _ in drawn]), spec, store, users)
    n_cut = int(sum(rolled.is_cut.sum() for _, _, rolled in drawn))
    begin = futures.instant(1)
    real, past = _real(store, spec, users, begin)
    print(f"\n### {name}, seed {seed}: {len(users)} users, {DAYS} days from {to_date(cutoff + 1)}, {n_samples} samples")
    print(
        f"{told.height:,} events in {seconds:.0f} s ({told.height / seconds:,.0f} events/s), {n_cut} futures cut;",
        end=" ",
    )
    print(f"{real.height:,} real events\n")
    density, by_day = _density(store, spec, split, users, cutoff)
    again = past.filter(pl.col("time") >= begin - DAYS * 86_400)
    again = again.with_columns(time=pl.col("time") + DAYS * 86_400, sample=pl.lit(0))
    table = {
        "BehaveGPT": figures(told, real, past, len(users), n_samples, begin),
        "HistoryDensity": figures(density, real, past, len(users), 1, begin, by_day),
        "past fortnight": figures(again, real, past, len(users), 1, begin),
    }
    names = list(next(iter(table.values())))
    print(f"| | {' | '.join(table)} |\n|---|{'---|' * len(table)}")
    for row in names:
        print(f"| {row} | {' | '.join(f'{found[row]:.4g}' for found in table.values())} |")
    for row in names if n_users == N_USERS else ():
        for who in ("BehaveGPT", "HistoryDensity"):
            record("generate", f"{name}, {who}: {row}", table[who][row], "", f"seed {seed}")


def trained(store: Store, spec: EventSpec, split: EventSplit, seed: int, epochs: int) -> BehaveGPT:
    """Train a tiny model of form joint on the train part, silence at the end included."""
    inputs = prepare_events(store, spec, split, "train", has_end=True)
    loader = EventLoader(inputs, tokens_per_batch=2048, is_training=True, seed=seed)
    config = BehaveGPTConfig.parse({"size": "tiny", "n_blocks": 3})
    model = BehaveGPT(config, spec.shape, seed=seed)
    counts = {name: torch.zeros(n) for name, n in spec.shape.fields}
    for batch in loader:
        for j, (name, n) in enumerate(spec.shape.fields):
            counts[name] += torch.bincount(batch.next_ids[batch.is_target][:, j], minlength=n)
    objective = JointEvents(model.links, config.plain, counts, GapBins.of(spec.gap_edges))
    began = time.perf_counter()
    train(model, objective, loader, range(epochs), lr=2e-3, seed=seed)
    valid = prepare_events(store, spec, split, "valid")
    sums, n = torch.zeros(len(objective.names)), torch.zeros(len(objective.names))
    with torch.no_grad():
        for batch in EventLoader(valid, tokens_per_batch=4096):
            found = objective.eval()(model, batch)
            sums, n = sums + found.sums, n + found.counts
    terms = ", ".join(f"{name} {value:.3f}" for name, value in zip(objective.names, (sums / n).tolist()))
    print(f"  trained {epochs} epochs in {time.perf_counter() - began:.0f} s; validation, nats: {terms}", flush=True)
    return model


def _numbered(events: pl.DataFrame, spec: EventSpec, store: Store, users: np.ndarray) -> pl.DataFrame:
    """Rows `row, sample, time (s), label` of generated events."""
    ids = store.users["user"].gather(pl.Series(users))
    row = pl.DataFrame({"user": ids, "row": np.arange(len(users))})
    label = pl.DataFrame({"type": spec.values["type"], "label": np.arange(len(spec.values["type"]))})
    joined = events.join(row, on="user", maintain_order="left").join(label, on="type", maintain_order="left")
    return joined.select("row", "sample", pl.col("time").dt.epoch("s"), "label")


def _real(store: Store, spec: EventSpec, users: np.ndarray, begin: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The real future and the whole past of the users, rows `row, time, label`."""
    every, time_of = _all_events(store, spec, users), pl.col("time")
    future = every.filter((time_of >= begin) & (time_of < begin + DAYS * 86_400))
    return future.with_columns(sample=pl.lit(0)), every.filter(time_of < begin)


def _events_from(store: Store, spec: EventSpec, users: np.ndarray, begin: int) -> pl.DataFrame:
    return _real(store, spec, users, begin)[0]


def _all_events(store: Store, spec: EventSpec, users: np.ndarray) -> pl.DataFrame:
    frames = []
    for i in range(store.n_shards):
        shard = store.shard(i)
        owner = np.repeat(np.arange(shard.first_user, shard.first_user + shard.n_users), np.diff(shard.offsets))
        frames.append(pl.DataFrame({"owner": owner, "time": shard.time // 1_000_000, "code": shard.type}))
    label = spec.lookup("type", store.vocabulary("type"))[:-1] - 2
    row = pl.DataFrame({"owner": users, "row": np.arange(len(users))})
    every = pl.concat(frames).join(row, on="owner", maintain_order="left")
    every = every.with_columns(label=pl.Series(label.astype(np.int64)).gather(every["code"]))
    return every.filter(pl.col("label") >= 0).select("row", "time", "label")


def _density(
    store: Store, spec: EventSpec, split: EventSplit, users: np.ndarray, cutoff: int
) -> tuple[pl.DataFrame, Timeline]:
    """What HistoryDensity tells: events, and chances per type and day. Knobs by OTD in the validation's fortnight."""
    loader = EventLoader(prepare_events(store, spec, split, "train", has_end=True), tokens_per_batch=8192)
    counted = HistoryDensity.counted(HistoryDensityConfig.parse({}), spec.shape, loader)
    before = (split.first_day("valid") or 0) - 1
    first_day = store.users["first_day"].cast(pl.Int32).to_numpy()
    some = users[first_day[users] <= before]
    best, chosen = np.inf, (28.0, 7.0)
    for days in (7.0, 14.0, 28.0, 56.0):
        for smoothing in (1.0, 7.0, 28.0):
            told, _, begin = _emitted(counted, (days, smoothing), store, spec, some, before)
            cost = float(otd(*_lines(_events_from(store, spec, some, begin), told), len(some)).mean())
            best, chosen = (cost, (days, smoothing)) if cost < best else (best, chosen)
    print(f"  HistoryDensity: window {chosen[0]:.0f} days, smoothing {chosen[1]:.0f} days, by validation")
    told, by_day, _ = _emitted(counted, chosen, store, spec, users, cutoff)
    return told, by_day


def _emitted(
    counted: HistoryDensity, knobs: tuple[float, float], store: Store, spec: EventSpec, users: np.ndarray, cutoff: int
) -> tuple[pl.DataFrame, Timeline, int]:
    model = HistoryDensity(counted.config.model_copy(update=dict(zip(("days", "smoothing"), knobs))), counted.shape)
    model.load_state_dict(counted.state_dict())
    inputs = last_states(store, spec, users, np.full(len(users), cutoff, np.int32))
    batch = assemble_events(inputs, np.arange(len(users)))
    told = model.emit(batch, DAYS * UNIT)
    begin = int(batch.time[0, batch.length[0] - 1]) + round(float(batch.remaining[0]))
    columns = {"row": told.row, "time": (begin + told.after).long(), "label": told.value - 2, "score": told.chance}
    events = pl.DataFrame({n: v.double().numpy() if n == "score" else v.numpy() for n, v in columns.items()})
    rates = model.rates(batch)[:, 2:].double()
    row, label, k = torch.nonzero(_at_least(rates) >= 0.02, as_tuple=True)
    score = _at_least(rates)[row, label, k].repeat_interleave(DAYS).numpy()
    day = np.tile(np.arange(DAYS) + 0.5, len(row)) + begin / UNIT
    row, label = (v.repeat_interleave(DAYS).numpy() for v in (row, label))
    return events.with_columns(sample=pl.lit(0)), Timeline(row, day, label, score), begin


def _at_least(rates: torch.Tensor) -> torch.Tensor:
    """P(at least 1, 2, 3 events a day) for Poisson rates a day, one more axis at the end."""
    k = torch.arange(1, 4, dtype=torch.float64)
    return torch.special.gammainc(k.expand(*rates.shape, 3), rates[..., None].expand(*rates.shape, 3))


def _lines(real: pl.DataFrame, told: pl.DataFrame) -> tuple[Timeline, Timeline]:
    columns = [(t["row"].to_numpy(), t["time"].to_numpy() / UNIT, t["label"].to_numpy()) for t in (real, told)]
    return Timeline(*columns[0]), Timeline(*columns[1])


def figures(
    told: pl.DataFrame,
    real: pl.DataFrame,
    past: pl.DataFrame,
    n_users: int,
    n_samples: int,
    begin: int,
    scored: Timeline | None = None,
) -> dict[str, float]:
    """Figures of generated events (all samples) against real ones; `scored`: told events with chances, for T-mAP."""
    n_labels = int(max(told["label"].max() or 0, real["label"].max() or 0, past["label"].max() or 0)) + 1  # type: ignore[arg-type]
    told = told.sort("row", "sample", "time", maintain_order=True)
    real = real.sort("row", "time", maintain_order=True)
    counts = [np.bincount(t["label"], minlength=n_labels) for t in (told, real)]
    owner = told["row"].to_numpy() * n_samples + told["sample"].to_numpy()
    per_day = [_per_day(t, n_users * n, begin, n) for t, n in ((told, n_samples), (real, 1))]
    one = told.filter(pl.col("sample") == 0)
    real_line = Timeline(real["row"].to_numpy(), real["time"].to_numpy() / UNIT, real["label"].to_numpy())
    one_line = Timeline(one["row"].to_numpy(), one["time"].to_numpy() / UNIT, one["label"].to_numpy())
    pooled = _pooled(told, n_samples, begin) if scored is None else scored
    own, others = copied_share(
        one["label"].to_numpy(), one["row"].to_numpy(), past["label"].to_numpy(), past["row"].to_numpy()
    )
    silent = 1 - told.select("row", "sample").n_unique() / (n_users * n_samples)
    return {
        "events per user": told.height / n_samples / n_users,
        "real events per user": real.height / n_users,
        "users without an event": silent,
        "really without": 1 - real["row"].n_unique() / n_users,
        "type JSD": jensen_shannon(*counts),
        "type TVD": total_variation(*counts),
        "label entropy / real": entropy_share(told["label"].to_numpy(), real["label"].to_numpy()),
        "log-gap Wasserstein": gap_distance(_gaps(told, owner), _gaps(real, real["row"].to_numpy())),
        "events per user-day JSD": jensen_shannon(*per_day),
        "bigram JSD": bigram_divergence(
            told["label"].to_numpy(), owner, real["label"].to_numpy(), real["row"].to_numpy()
        ),
        "OTD, one future": float(otd(real_line, one_line, n_users).mean()),
        "T-mAP at 1 day, one future": t_map(real_line, one_line, n_users, 1.0),
        "T-mAP at 1 day, with chances": t_map(real_line, pooled, n_users, 1.0),
        "OTD, events of chance >= 1/2": float(otd(real_line, _likely(pooled), n_users).mean()),
        "5-grams of own past": own,
        "5-grams of others' past only": others,
    }


def _pooled(told: pl.DataFrame, n_samples: int, begin: int) -> Timeline:
    """One line of scored events: the k-th event of a type on a day, scored by the share of samples that have it."""
    day = ((pl.col("time") - begin) // 86_400).alias("day")
    cells = told.with_columns(day).sort("row", "sample", "label", "day", "time")
    cells = cells.with_columns(k=pl.int_range(pl.len()).over("row", "sample", "label", "day"))
    found = cells.group_by("row", "label", "day", "k", maintain_order=True).agg(pl.col("time").mean(), pl.len())
    score = found["len"].to_numpy() / n_samples
    return Timeline(found["row"].to_numpy(), found["time"].to_numpy() / UNIT, found["label"].to_numpy(), score)


def _likely(line: Timeline) -> Timeline:
    kept = line.score >= 0.5
    return Timeline(line.row[kept], line.time[kept], line.label[kept], line.score[kept])


def _per_day(events: pl.DataFrame, n_rows: int, begin: int, n_samples: int) -> np.ndarray:
    """How many user-days have 0, 1, .. 20 or more events."""
    key = (events["row"] * n_samples + events["sample"]).to_numpy() * DAYS
    day = (events["time"].to_numpy() - begin) // 86_400
    found = np.bincount(key + day.clip(0, DAYS - 1), minlength=n_rows * DAYS)
    return np.bincount(np.minimum(found, 20), minlength=21)


def _gaps(events: pl.DataFrame, owner: np.ndarray) -> np.ndarray:
    gap = np.diff(events["time"].to_numpy())
    return gap[owner[1:] == owner[:-1]]


def speed(size: str) -> None:
    """Events per second of a tiny model on the world of rules, window 128, one thread: cached, uncached, ratio."""
    store, split = generation_log("rules"), generation_split("rules")
    spec = fit_event_spec(store, EventTokenConfig.parse({"length": 128}), split)
    model = BehaveGPT(BehaveGPTConfig.parse({"size": "tiny"}), spec.shape).eval()
    cutoff = (split.first_day("test") or 0) - 1
    first_day = store.users["first_day"].cast(pl.Int32).to_numpy()
    users = np.flatnonzero(first_day <= cutoff)[: 50 if size == "small" else 100]
    rates = {}
    for is_cached in (True, False):
        draws = DrawConfig.parse({"max_events": 64})
        futures = Futures(model, spec, store, users, cutoff, 365, 1, draws, is_cached=is_cached)
        began, n = time.perf_counter(), 0
        for low, high in futures.chunks():
            n += futures.draw(low, high)[0].height
        rates[is_cached] = n / (time.perf_counter() - began)
    record("generate", "tiny, window 128: cached", rates[True], "events/s", f"{len(users)} users, one thread")
    record("generate", "tiny, window 128: uncached", rates[False], "events/s", f"{len(users)} users, one thread")
    record("generate", "tiny, window 128: cached / uncached", rates[True] / rates[False], "x", "goal 5")


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path("runs").mkdir(exist_ok=True)
    main()
