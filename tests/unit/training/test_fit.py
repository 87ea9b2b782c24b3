"""Training: schedules, stopping, averaging, resuming in one process, and what is refused."""

import os
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from habitus.core.errors import ConfigError, TrainingError
from habitus.models.heads import fit_head, n_outputs
from habitus.models.lumos import Lumos, LumosConfig, LumosShape
from habitus.testing.contracts import day_batch
from habitus.testing.loaders import BatchList
from habitus.training.fit import Fitted, TrainingConfig, fit
from habitus.training.objectives import Loss, Objective
from habitus.training.objectives.multi_task import MultiTask

HEADS = (fit_head("binary", "buy", 5, [0, 1]), fit_head("binary", "visit", 5, [0, 1]))
SHAPE = LumosShape(3, 4, 2, 20, 5, tuple(n_outputs(h) for h in HEADS))
CONFIG = TrainingConfig(epochs=3, lr=1e-3, loggers=("csv",), log_every=1, checkpoint_every=2)


def model(seed: int = 0) -> Lumos:
    return Lumos(LumosConfig(size="tiny", d_model=16, n_heads=2, d_ff=16, n_encoder=1), SHAPE, seed=seed)


def loaders(n: int = 4) -> tuple[BatchList, BatchList]:
    batches = [day_batch(16, SHAPE, n_days=6, seed=s) for s in range(n + 2)]
    return BatchList(batches[:n]), BatchList(batches[n:], seed=None)


def run(folder: Path, config: TrainingConfig = CONFIG, *, valid: bool = True, **options: int) -> tuple[Lumos, Fitted]:
    made, (train, validation) = model(), loaders()
    return made, fit(made, MultiTask(HEADS), train, validation if valid else None, config, folder, **options)


def test_a_run_leaves_its_history_its_best_weights_and_no_litter(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    before, state, here = set(os.listdir()), torch.get_rng_state(), tmp_path / "run"
    _, fitted = run(here)
    assert {f.name for f in here.iterdir()} == {"last.ckpt", "best.safetensors", "log.csv"}
    assert set(os.listdir()) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")
    assert [row["epoch"] for row in fitted.history] == [1, 2, 3]
    assert fitted.n_steps == 12
    best = min(fitted.history, key=lambda row: row["valid"])
    assert (fitted.best_epoch, fitted.best_score) == (best["epoch"], best["valid"])
    assert set(best["targets"]) == {"buy", "visit"}
    assert best["valid"] == pytest.approx(sum(best["targets"].values()) / 2)
    assert fitted.throughput["positions_per_second"] > 0
    assert 0 < fitted.throughput["mfu"] < 1


def test_the_model_holds_the_best_weights_not_the_last(tmp_path: Path) -> None:
    made, fitted = run(tmp_path, CONFIG.model_copy(update={"lr": 0.05, "epochs": 6}))
    assert fitted.best_epoch < 6
    loss = [MultiTask(HEADS).eval()(made.eval(), b) for b in loaders()[1].batches]
    means = sum(part.sums for part in loss) / sum(part.counts for part in loss)
    wanted = fitted.history[fitted.best_epoch - 1]["losses"]
    torch.testing.assert_close(means, torch.tensor(list(wanted.values())), rtol=1e-5, atol=1e-6)


def test_tensorboard_is_written_inside_the_folder(tmp_path: Path) -> None:
    run(tmp_path, CONFIG.model_copy(update={"epochs": 1, "loggers": ("csv", "tensorboard")}))
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_patience_stops_early(tmp_path: Path) -> None:
    _, fitted = run(tmp_path, CONFIG.model_copy(update={"lr": 0.2, "epochs": 30, "patience": 2}))
    assert fitted.is_stopped_early
    assert len(fitted.history) == fitted.best_epoch + 2 < 30


def test_without_validation_it_runs_the_given_epochs_and_keeps_the_last_weights(tmp_path: Path) -> None:
    made, fitted = run(tmp_path, valid=False)
    assert (fitted.best_epoch, fitted.best_score, len(fitted.history)) == (3, None, 3)
    last = torch.load(fitted.last_path, weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, last[f"model.{name}"]) for name, tensor in made.state_dict().items())


def test_stop_after_follows_the_schedule_of_the_whole_plan(tmp_path: Path) -> None:
    _, whole = run(tmp_path / "whole", CONFIG.model_copy(update={"patience": None}))
    _, part = run(tmp_path / "part", CONFIG.model_copy(update={"patience": None}), stop_after=2)
    assert part.history == whole.history[:2]
    assert rates(tmp_path / "part") == rates(tmp_path / "whole")[:8]


def rates(folder: Path) -> list[float]:
    import csv

    with (folder / "log.csv").open(newline="") as file:
        return [float(row["lr"]) for row in csv.DictReader(file)]


def test_the_rate_warms_up_and_falls_to_its_floor(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"warm_up": 0.25, "lr_floor": 0.1, "lr": 1.0, "clip": 0.01, "epochs": 3})
    run(tmp_path / "cosine", config)
    found = rates(tmp_path / "cosine")
    assert found[:2] == pytest.approx([1 / 3, 2 / 3])
    assert max(found) == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(found[3:]))
    assert 0.1 < found[-1] < 0.2
    run(tmp_path / "constant", config.model_copy(update={"schedule": "constant"}))
    assert rates(tmp_path / "constant")[3:] == pytest.approx([1.0] * 9)


def test_biases_norms_positions_and_free_vectors_do_not_decay() -> None:
    from habitus.training.adapter import parameter_groups

    pair = nn.ModuleDict({"model": model(), "objective": MultiTask(HEADS)})
    names = {id(p): name for name, p in pair.named_parameters()}
    decayed, free = ({names[id(p)] for p in g["params"]} for g in parameter_groups(pair, 0.5))
    assert decayed | free == set(names.values())
    assert not decayed & free
    assert all(name.endswith(".weight") and "norm" not in name for name in decayed)
    kept = ("model.places", "model.kinds", "model.readout.queries", "objective.log_variance", "model.fuse.bias")
    assert free.issuperset(kept)
    assert {"model.fuse.weight", "model.readout.heads.0.weight", "model.encoder.0.attention.query.weight"} <= decayed


@pytest.mark.parametrize("averaging", ["ema", "last"])
def test_averaged_weights_are_validated_and_kept(tmp_path: Path, averaging: str) -> None:
    config = CONFIG.model_copy(update={"averaging": averaging, "average_epochs": 2, "patience": None})
    made, fitted = run(tmp_path / "averaged", config)
    _, plain = run(tmp_path / "plain", CONFIG.model_copy(update={"patience": None}))
    assert [r["train"] for r in fitted.history] == [r["train"] for r in plain.history]  # the walk itself is the same
    assert fitted.history[-1]["valid"] != plain.history[-1]["valid"]
    kept = torch.load(fitted.last_path, weights_only=True)["average"]["kept"]
    trained = list(made.parameters())
    if fitted.best_epoch == 3:
        mean = [torch.stack(own).mean(dim=0) for own in zip(*kept)]
        assert all(torch.equal(a, b.detach()) for a, b in zip(mean, trained))


class Stopped(Exception):
    pass


class Breaking(BatchList):
    """Fails when batch number `at` of the run is asked for."""

    at = 10**9
    n_given = 0
    how: type[BaseException] = Stopped

    def __iter__(self):
        for batch in super().__iter__():
            self.n_given += 1
            if self.n_given == self.at:
                raise self.how
            yield batch


@pytest.mark.parametrize("averaging", ["none", "ema", "last"])
@pytest.mark.parametrize("at", [4, 7, 9])
def test_a_broken_run_goes_on_with_the_same_bits(tmp_path: Path, averaging: str, at: int) -> None:
    config = CONFIG.model_copy(update={"averaging": averaging})
    whole_model, whole = run(tmp_path / "whole", config)
    train, valid = loaders()
    train = Breaking(train.batches)
    train.at = at
    with pytest.raises(Stopped):
        fit(model(), MultiTask(HEADS), train, valid, config, tmp_path / "broken")
    resumed_model, resumed = run(tmp_path / "broken", config)
    assert resumed.history == whole.history
    assert log_without_speed(tmp_path / "broken") == log_without_speed(tmp_path / "whole")
    assert resumed.throughput["n_steps"] < 12  # it did go on
    for a, b in zip(whole_model.state_dict().values(), resumed_model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_ctrl_c_arrives_as_what_it_is_and_leaves_the_key_alive(tmp_path: Path) -> None:
    import signal

    handler, (train, valid) = signal.getsignal(signal.SIGINT), loaders()
    train = Breaking(train.batches)
    train.at, train.how = 4, KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        fit(model(), MultiTask(HEADS), train, valid, CONFIG, tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    _, resumed = run(tmp_path)
    assert resumed.n_steps == 12


def log_without_speed(folder: Path) -> list[list[str]]:
    lines = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    assert len(lines) == 13
    return [line[: lines[0].index("positions_per_second")] for line in lines]


def test_a_finished_run_is_only_read(tmp_path: Path) -> None:
    one, first = run(tmp_path)
    stamp = (tmp_path / "last.ckpt").stat().st_mtime_ns
    two, second = run(tmp_path)
    assert (tmp_path / "last.ckpt").stat().st_mtime_ns == stamp
    assert second.history == first.history
    assert second.throughput == {}
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))


def test_seeds_decide_the_draws(tmp_path: Path) -> None:
    _, one = run(tmp_path / "a")
    _, two = run(tmp_path / "b", CONFIG.model_copy(update={"seed": 1}))
    assert one.history != two.history


def test_gradients_are_clipped(tmp_path: Path) -> None:
    """AdamW forgets the size of gradients, so look at its second moments: norms of at most 1e-3 leave them tiny."""
    moments = {}
    for clip in (0.0, 1e-3):
        _, fitted = run(tmp_path / str(clip), CONFIG.model_copy(update={"clip": clip, "epochs": 1}))
        state = torch.load(fitted.last_path, weights_only=True)["optimizer_states"][0]["state"]
        moments[clip] = sum(float(s["exp_avg_sq"].sum()) for s in state.values())
    assert moments[1e-3] <= 4 * 1e-3 * 1e-6 < moments[0.0]


def test_bf16_trains(tmp_path: Path) -> None:
    _, fitted = run(tmp_path, CONFIG.model_copy(update={"precision": "bf16", "epochs": 1}))
    assert fitted.history[0]["valid"] == pytest.approx(1.0, abs=0.2)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path, CONFIG.model_copy(update={"epochs": 1}))
    with pytest.raises(TrainingError, match=r"lr = 0\.001, as this run began"):
        run(tmp_path, CONFIG.model_copy(update={"epochs": 1, "lr": 0.002}))
    train, valid = loaders()
    other = Lumos(LumosConfig(size="tiny"), SHAPE)
    with pytest.raises(TrainingError, match="model and objective"):
        fit(other, MultiTask(HEADS), train, valid, CONFIG.model_copy(update={"epochs": 1}), tmp_path)


def test_a_loss_that_is_not_finite_names_step_and_target(tmp_path: Path) -> None:
    train, valid = loaders()
    train.batches[2] = replace(train.batches[2], profile=train.batches[2].profile * torch.inf)
    with pytest.raises(TrainingError, match="a finite loss") as caught:
        fit(model(), MultiTask(HEADS), train, valid, CONFIG, tmp_path)
    assert "nan at step" in str(caught.value)
    assert "buy, visit" in str(caught.value)


def test_loaders_without_batches_are_refused(tmp_path: Path) -> None:
    train, valid = loaders()
    with pytest.raises(TrainingError, match="at least one training batch"):
        fit(model(), MultiTask(HEADS), BatchList([]), valid, CONFIG, tmp_path)
    with pytest.raises(TrainingError, match="at least one validation batch"):
        fit(model(), MultiTask(HEADS), train, BatchList([]), CONFIG, tmp_path)


def test_validation_without_observed_targets_is_refused(tmp_path: Path) -> None:
    train, valid = loaders()
    valid.batches = [replace(b, is_observed=torch.zeros_like(b.is_observed)) for b in valid.batches]
    with pytest.raises(TrainingError, match="validation rows with targets"):
        fit(model(), MultiTask(HEADS), train, valid, CONFIG, tmp_path)


def test_a_logger_that_is_not_installed_names_the_command(tmp_path: Path) -> None:
    from importlib.util import find_spec

    from habitus.core.errors import ExtraError

    if find_spec("mlflow") is not None:
        pytest.skip("mlflow is installed")
    with pytest.raises(ExtraError, match="pip install mlflow"):
        run(tmp_path, CONFIG.model_copy(update={"loggers": ("mlflow",)}))


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'patience'"):
        TrainingConfig.parse({"patients": 3})


class TwoViews(Objective):
    """An objective of another kind: calls the model twice, has a layer and a running state of its own."""

    names = ("sum of views",)

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(2, 2)
        self.register_buffer("running", torch.zeros(()))
        self.register_buffer("progress", torch.zeros(()))

    def forward(self, model: nn.Module, batch) -> Loss:
        one = self.project(model(batch).window)
        two = self.project(model(batch.with_future(batch.known_future.flip(1))).window)
        each = (one + two - 1.0).square().mean(dim=-1)
        self.pending = each.detach().mean()
        return Loss(each.mean(), each.sum().detach()[None], torch.tensor([len(batch)]))

    def after_step(self, progress: float) -> None:
        self.running.lerp_(self.pending, 0.1)  # pyright: ignore
        self.progress.fill_(progress)  # pyright: ignore


def test_an_objective_without_targets_trains_through_the_same_seam(tmp_path: Path) -> None:
    objective, (train, valid) = TwoViews(), loaders()
    before = objective.project.weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = fit(model(), objective, train, valid, CONFIG.model_copy(update={"lr": 0.02}), tmp_path)
    assert fitted.history[-1]["targets"].keys() == {"sum of views"}
    assert not torch.equal(objective.project.weight, before)
    assert float(objective.running) > 0  # pyright: ignore
    assert fitted.history[-1]["train"] < 0.8 * fitted.history[0]["train"]
