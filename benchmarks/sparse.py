"""Sparse day tokens against dense ones at a history of 360 days: users a second in training, AUC, memory, MFU.

Two logs: Online Retail, and a simulated one of 100,000 users who come about as often as those of Complete Journey
(--size small: 10,000). Each form trains in a process of its own, on the same samples, as many steps, in turns;
a ratio is the median over turns. `dense` keeps every day since a user was first seen.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.record import record, size_option
from habitus.data.cutoffs import Cutoffs, Samples, samples_of
from habitus.data.sources.simulator import UserType, World
from habitus.data.sources.simulator.world import EVENT_TYPES, ready_made
from habitus.data.store import Store

HISTORY, HORIZON = 360, 28
TOKENS = {"sparse": "sparse", "dense": "all"}
TARGETS = ("any(purchase) in 28d", "sum(spend of purchase) in 28d", "days(purchase) in 28d")
STEPS = {"small": 24, "full": 96}
TURNS = {"small": 1, "full": 2}


@dataclass(frozen=True)
class Job:
    """One training: where the log is, which days are kept, how long."""

    store: Path
    cutoffs: dict
    form: str
    n_steps: int
    seed: int = 0
    batch_size: int = 256


@dataclass(frozen=True)
class Outcome:
    """What a process saw; `p` are forecasts of buying for `user` [n], `y` what happened."""

    users_per_second: float
    mfu: float
    wait_share: float
    days_kept: float
    peak_mb: float
    y: np.ndarray
    p: np.ndarray
    user: np.ndarray


def calm_world(n_users: int) -> World:
    """The world `effects` with users who are active on a day in thirteen, as in Complete Journey's sample."""
    world = ready_made("effects", n_users=n_users, n_days=500)
    user = UserType(name="household", share=1, rates={"visit": 0.055, "purchase": 0.025}, level_sigma=0.8)
    types = tuple(t for t in EVENT_TYPES if t.name in user.rates)
    return world.model_copy(update={"user_types": (user,), "event_types": types})


def main() -> None:
    """Measure both logs."""
    size = size_option(__doc__)
    with tempfile.TemporaryDirectory(prefix="habitus-sparse-") as folder:
        for name, make in (("Online Retail", _retail), ("simulated", _simulated)):
            store, cutoffs, note = make(Path(folder), size)
            _compare(name, store, cutoffs, note, size)


def _retail(folder: Path, size: str) -> tuple[Path, dict, str]:
    from habitus.data.ingest import ingest
    from habitus.data.sources.online_retail import online_retail

    store = ingest(online_retail(), folder / "retail.store")
    weeks = {"first": "2011-06-09", "last": "2011-09-08", "every": 7}
    return store.path, _cutoffs(weeks, "2011-10-06", "2011-11-10", ["any(purchase)"]), f"{store.n_users:,} customers"


def _simulated(folder: Path, size: str) -> tuple[Path, dict, str]:
    from habitus.data.ingest import ingest
    from habitus.data.sources.simulator import simulated_log, write

    n_users = 100_000 if size == "full" else 10_000
    write(calm_world(n_users), folder / "world", with_truth=False)
    store = ingest(simulated_log(folder / "world"), folder / "world.store")
    weeks = {"first": "2024-01-13", "last": "2024-02-17", "every": 7}
    return store.path, _cutoffs(weeks, "2024-03-16", "2024-04-13", []), f"{n_users:,} users"


def _cutoffs(train: dict, valid: str, test: str, eligible: list[str]) -> dict:
    days = {"train": train, "valid": {"days": [valid]}, "test": {"days": [test]}}
    return {"horizon": HORIZON, **days, "eligible": eligible}


def _compare(name: str, store: Path, cutoffs: dict, note: str, size: str) -> None:
    from habitus.metrics.bootstrap import interval, paired_difference, resamples
    from habitus.metrics.classification import auc

    found: dict[str, list[Outcome]] = {form: [] for form in TOKENS}
    for turn in range(TURNS[size]):
        for form in TOKENS:
            found[form].append(_alone(Job(store, cutoffs, form, STEPS[size], seed=turn)))
    for form, outcomes in found.items():
        title = f"{name}, {form}"
        record("sparse", f"{title}: users trained", _median(outcomes, "users_per_second"), "users/s", note)
        record("sparse", f"{title}: days kept", _median(outcomes, "days_kept"), "days a sample")
        record("sparse", f"{title}: MFU against this machine's matmul peak", _median(outcomes, "mfu"), "share")
        record("sparse", f"{title}: waiting for the loader", _median(outcomes, "wait_share"), "share of a step")
        record("sparse", f"{title}: peak memory", _median(outcomes, "peak_mb"), "MB")
        drawn = resamples(outcomes[0].user)
        span = interval(auc, outcomes[0].y, outcomes[0].p, drawn)
        spread = f"[{span.low:.4f}, {span.high:.4f}], {STEPS[size]} steps, seeds: " + ", ".join(
            f"{auc(o.y, o.p):.4f}" for o in outcomes
        )
        record("sparse", f"{title}: AUC of buying", span.value, "", spread)
    sparse, dense = found["sparse"], found["dense"]
    ratios = [s.users_per_second / d.users_per_second for s, d in zip(sparse, dense)]
    turns = "turns: " + ", ".join(f"{r:.2f}" for r in ratios)
    record("sparse", f"{name}: users trained a second, sparse / dense", float(np.median(ratios)), "", turns)
    memory = _median(sparse, "peak_mb") / _median(dense, "peak_mb")
    record("sparse", f"{name}: peak memory, sparse / dense", memory)
    mean = [np.mean([o.p for o in outcomes], axis=0) for outcomes in (sparse, dense)]
    gap = paired_difference(auc, sparse[0].y, mean[0], mean[1], resamples(sparse[0].user))
    record("sparse", f"{name}: AUC, sparse - dense", gap.value, "", f"[{gap.low:+.4f}, {gap.high:+.4f}]")


def _median(outcomes: list[Outcome], name: str) -> float:
    return float(np.median([getattr(outcome, name) for outcome in outcomes]))


def _alone(job: Job) -> Outcome:
    """Run a job in a fresh process, whose peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(train, (job,))


def train(job: Job) -> Outcome:
    """Train `n_steps` steps on samples drawn from the training cut-offs, then forecast 4,000 test samples."""
    import torch

    from habitus.data.targets import Target
    from habitus.models.heads import fit_head, n_outputs
    from habitus.models.lumos import Lumos, LumosConfig
    from habitus.tasks.forecast import Heads, forecast
    from habitus.tasks.train import shape_of
    from habitus.tokens.loader import DayLoader, prepare
    from habitus.tokens.spec import TokenConfig, fit_spec
    from habitus.training.fit import TrainingConfig, fit
    from habitus.training.objectives.multi_task import MultiTask

    store, cutoffs = Store.open(job.store), Cutoffs.parse(job.cutoffs)
    wanted = tuple(Target.parse(text, name=text[: text.index("(")]) for text in TARGETS)
    samples = _some(samples_of(store, cutoffs, "train"), job.n_steps * job.batch_size, job.seed)
    tokens = TokenConfig(history=HISTORY, keep=TOKENS[job.form], history_dropout=0.0)  # type: ignore[arg-type]
    spec = fit_spec(store, tokens, samples, wanted)
    inputs = prepare(store, spec, samples)
    assert inputs.measured is not None
    kinds = ("binary", "ziln", "days")
    heads = tuple(fit_head(k, t.name, HORIZON, y) for k, t, y in zip(kinds, wanted, inputs.measured.value.T))
    both = Heads(heads, ())
    assert all(n_outputs(head) for head in heads)
    model = Lumos(LumosConfig.parse({"size": "tiny", "d_profile": 64}), shape_of(spec, both), seed=job.seed)
    loader = DayLoader(inputs, batch_size=job.batch_size, is_training=True, seed=job.seed)
    config = TrainingConfig.parse({"epochs": 1, "lr": 2e-3, "loggers": [], "seed": job.seed, "accelerator": "cpu"})
    with tempfile.TemporaryDirectory() as folder:
        speed = fit(model, MultiTask(heads), loader, None, config, folder).throughput
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    asked = _some(samples_of(store, cutoffs, "test"), 4000, 0)
    test = prepare(store, spec, asked)
    assert test.measured is not None
    with torch.no_grad():
        answer = forecast([model.eval()], both, test)
    return Outcome(
        users_per_second=speed["samples_per_second"],
        mfu=speed["mfu"],
        wait_share=speed["wait_share"],
        days_kept=loader.n_tokens / len(samples),
        peak_mb=memory,
        y=test.measured.value[:, 0],
        p=answer.mean[:, 0],
        user=asked.user,
    )


def _some(samples: Samples, n: int, seed: int) -> Samples:
    if len(samples) <= n:
        return samples
    return samples.take(np.sort(np.random.default_rng(seed).choice(len(samples), n, replace=False)))


if __name__ == "__main__":
    main()
