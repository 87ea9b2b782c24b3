"""Train any model on any objective: Lightning's Trainer with one adapter, exact resume, early stopping."""

from __future__ import annotations

import copy
import hashlib
import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import nn

from habitus.core.atomic import remove_partial
from habitus.core.config import Config
from habitus.core.errors import ExtraError, TrainingError
from habitus.models.layers.catalogue import BY_ROW
from habitus.training.checkpoints import (
    BEST,
    FORMAT,
    FREE,
    LAST,
    Place,
    load_weights,
    read_checkpoint,
    read_place,
    recover,
)
from habitus.training.distributed import (
    barrier,
    devices_of,
    environments,
    is_first,
    is_to_shard,
    world_size,
)
from habitus.training.objectives import Objective
from habitus.training.rows import mark_tables
from habitus.training.throughput import matmul_peak


class TrainingConfig(Config):
    """How to train. Batch size belongs to the loader, dropout to the model.

    `patience` is in epochs without a better validation score; None never stops early. `averaging = "ema"` or `"last"`
    validates and keeps averaged weights (see `Average`). `checkpoint_every` is in steps; 0 keeps those at epoch ends.
    Tables of `by_row` rows or more get gradients and updates only for the rows a step has read, where the loss samples
    (see `training.rows`); 0 never. `devices` goes to Lightning; under `torchrun` or Ray there are as many as processes,
    and `strategy` is `ddp` (each has the whole model) or `fsdp` (each has a part of every weight; without averaging).
    `batches_per_step` is how many batches of the loader make one step, over all devices together: the same recipe gives
    the same steps on 1, 2 or 4 devices, and may move between them. None is one batch per device. `bf16` and `compile`
    are switches for speed, off by default.

    >>> TrainingConfig().lr
    0.0003
    """

    lr: float = Field(3e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    warm_up: float = Field(0.02, ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    lr_floor: float = Field(0.0, ge=0, le=1)
    clip: float = Field(1.0, ge=0)
    epochs: int = Field(20, gt=0)
    patience: int | None = Field(5, gt=0)
    averaging: Literal["none", "ema", "last"] = "none"
    ema_decay: float = Field(0.999, gt=0, lt=1)
    average_epochs: int = Field(3, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    checkpoint_every: int = Field(200, ge=0)
    log_every: int = Field(10, gt=0)
    loggers: tuple[Literal["csv", "tensorboard", "mlflow"], ...] = ("csv", "tensorboard")
    accelerator: str = "auto"
    by_row: int = Field(100_000, ge=0)
    devices: int | str = 1
    strategy: str = "auto"
    batches_per_step: int | None = Field(None, gt=0)
    seed: int = 0


class Loader(Protocol):
    """What `fit` needs of a loader. Batches have `len`, `is_padding` (B T bool) and `to(device)`."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def set_epoch(self, epoch: int) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Fitted:
    """What came out of `fit`; the model and the objective hold the best weights.

    `history`: one row per epoch with `epoch`, `step`, `train` and `valid` (mean over targets of loss / base-rate loss),
    `targets` (that ratio per target, on validation), `train_targets`, `losses` (mean validation loss per target).
    `throughput`: positions (user-days that are not padding) and samples per second, MFU, share of time waiting for the
    loader, of this call alone; empty when nothing was left to do.
    """

    folder: Path
    history: list[dict[str, Any]]
    best_epoch: int
    best_score: float | None
    n_steps: int
    is_stopped_early: bool
    throughput: dict[str, float]

    @property
    def best_path(self) -> Path:
        """The weights to use."""
        return self.folder / BEST

    @property
    def last_path(self) -> Path:
        """The checkpoint to resume."""
        return self.folder / LAST


def fit(
    model: nn.Module,
    objective: Objective,
    train_loader: Loader,
    valid_loader: Loader | None,
    config: TrainingConfig,
    folder: str | Path,
    *,
    stop_after: int | None = None,
) -> Fitted:
    """Train `model` in place, write checkpoints and logs to `folder`, and load the best weights at the end.

    Parameters
    ----------
    valid_loader
        None trains for exactly the given epochs and keeps the last weights (a refit on train + validation).
    folder
        A run found there goes on: killed at any moment, it gives the same next losses, bit for bit on a CPU with the
        same number of threads. A finished run is only read.
    stop_after
        End after this many epochs of a schedule that is planned for `config.epochs`.

    The random state of the process is left as it was. Errors: `TrainingError` without batches, for a loss that is not
    finite, or for a folder with a run of other settings; `ExtraError` for a logger that is not installed.
    """
    folder = Path(folder)
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        recover(folder / LAST)
        remove_partial(folder)
    barrier()
    mark_tables(model, 0 if config.strategy == "fsdp" else config.by_row)  # alone too: such a run may move
    n_batches = len(train_loader)
    for part, loader in (("training", train_loader), ("validation", valid_loader)):
        if loader is not None and len(loader) == 0:
            raise TrainingError(f"at least one {part} batch", "none", where=str(folder), fix="check the cut-offs")
    per_step = config.batches_per_step or world_size()
    _check_steps(n_batches, per_step, config, str(folder))
    place = read_place(folder, _settings(model, objective, config, n_batches, stop_after))
    barrier()
    throughput = {}
    if not place.is_done:
        throughput = _train(model, objective, train_loader, valid_loader, config, folder, place, stop_after)
        place = Place.from_state(read_checkpoint(folder / LAST)["place"])
    load_weights(folder / BEST, {"model": model, "objective": objective})
    return Fitted(
        folder=folder,
        history=place.history,
        best_epoch=place.best_epoch or place.epoch,
        best_score=place.best_score if place.best_epoch else None,
        n_steps=place.step,
        is_stopped_early=place.is_stopped_early,
        throughput=throughput,
    )


def _train(
    model: nn.Module,
    objective: Objective,
    train_loader: Loader,
    valid_loader: Loader | None,
    config: TrainingConfig,
    folder: Path,
    place: Place,
    stop_after: int | None,
) -> dict[str, float]:
    """Run Lightning from `place` to the end; give throughput figures."""
    with _quiet(), _own_randomness(), _interruptible(), _compiled(model, config.compile):
        import lightning.pytorch as pl

        from habitus.training.adapter import Adapter, AtomicCheckpointIO, Feed
        from habitus.training.throughput import Meter

        objective.is_by_batch = config.batches_per_step is not None
        own = copy.deepcopy((model, objective)) if is_to_shard(config) else (model, objective)  # cut up in place
        adapter = Adapter(*own, config, place, folder, len(train_loader))
        adapter.n_epochs = min(stop_after or config.epochs, config.epochs)
        size, per_step = world_size(), config.batches_per_step or world_size()
        trainer = pl.Trainer(
            accelerator=config.accelerator,
            **devices_of(config),
            accumulate_grad_batches=per_step // size,
            precision="bf16-mixed" if config.precision == "bf16" else "32-true",
            max_epochs=adapter.n_epochs - place.epoch,
            logger=_loggers(config, folder),
            plugins=[AtomicCheckpointIO(), *environments()],
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        adapter.n_batches = len(train_loader) // (per_step if per_step > 1 else trainer.world_size)
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        adapter.meter = Meter(trainer.world_size * matmul_peak(trainer.strategy.root_device.type, dtype))
        adapter.recent = Meter(adapter.meter.peak)
        model.train()
        objective.train()
        resumed = folder / LAST if place.step else None
        feeds = Feed(train_loader, place, per_step), Feed(valid_loader) if valid_loader is not None else None
        try:
            trainer.fit(adapter, *feeds, ckpt_path=resumed, weights_only=True)
        finally:
            adapter.close()
        return adapter.meter.figures()


def _check_steps(n_batches: int, per_step: int, config: TrainingConfig, where: str) -> None:
    """Refuse steps that the devices cannot share, or that are larger than an epoch. Errors: `TrainingError`."""
    size = world_size()
    if per_step % size:
        fix = f"set batches_per_step to a multiple of {size}, or take another number of workers"
        raise TrainingError(f"batches_per_step that {size} devices can share", str(per_step), where=where, fix=fix)
    if n_batches < per_step:
        fix = "smaller batches, or fewer of them per step"
        raise TrainingError(f"at least the {per_step} batches of a step", str(n_batches), where=where, fix=fix)
    if is_to_shard(config) and config.averaging != "none":
        fix = 'averaging = "none", or strategy = "ddp"'
        raise TrainingError("no averaging where weights are cut up", config.averaging, where=where, fix=fix)


def _settings(
    model: nn.Module, objective: Objective, config: TrainingConfig, n_batches: int, stop_after: int | None
) -> dict[str, str]:
    """What must be equal in a run that goes on."""
    per_step = config.batches_per_step or world_size()
    by_row = [name for name, weight in model.named_parameters() if getattr(weight, BY_ROW, False)]
    chosen = {name: str(value) for name, value in config.model_dump(exclude={*FREE, "batches_per_step"}).items()}
    shapes = [(name, tuple(p.shape)) for name, p in (*model.named_parameters(), *objective.named_parameters())]
    described = f"{model!r} {objective!r} {shapes}"
    return chosen | {
        "checkpoint format": str(FORMAT),
        "model and objective": hashlib.sha256(described.encode()).hexdigest()[:16],
        "batches per epoch": str(n_batches),
        "stop_after": str(stop_after),
        **({"tables by row": ", ".join(by_row)} if by_row else {}),
        **({"batches per step": str(per_step)} if per_step > 1 else {}),
    }


def _loggers(config: TrainingConfig, folder: Path) -> list[Any]:
    """Lightning's loggers; log.csv is written by the adapter."""
    found: list[Any] = []
    if "tensorboard" in config.loggers:
        from lightning.pytorch.loggers import TensorBoardLogger

        found.append(TensorBoardLogger(save_dir=folder, name="", version="tensorboard"))
    if "mlflow" in config.loggers:
        from lightning.pytorch.loggers import MLFlowLogger

        try:
            found.append(MLFlowLogger(experiment_name=folder.name, save_dir=str(folder / "mlflow")))
        except ModuleNotFoundError as cause:
            fix = "pip install mlflow"
            raise ExtraError("the optional package 'mlflow'", f"not installed ({cause})", fix=fix) from None
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's notices and warnings while the block runs; our own errors say what matters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        import lightning.pytorch  # noqa: F401  (its import sets the levels of these)

        loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Give the process its random state back afterwards: each step seeds it anew."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl+C through as what it is: Lightning turns it into an exit and leaves the key dead."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as cause:
        if not isinstance(cause.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


@contextmanager
def _compiled(model: nn.Module, is_on: bool) -> Iterator[None]:
    """Compile calls of the model while the block runs."""
    if is_on:
        model.compile()
    try:
        yield
    finally:
        model._compiled_call_impl = None  # pyright: ignore
