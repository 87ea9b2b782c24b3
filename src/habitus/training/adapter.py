"""The one LightningModule: any model, any objective. Imported inside `fit`, because Lightning takes seconds to load."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor, nn
from tqdm import tqdm

from habitus.core.errors import TrainingError
from habitus.core.seeds import derive
from habitus.training.averaging import Average
from habitus.training.checkpoints import (
    BEST,
    LAST,
    LOG,
    Place,
    StepLog,
    read_checkpoint,
    read_whole,
    save_weights,
    write_checkpoint,
)
from habitus.training.distributed import by_number, is_sharded, shard, whole_weights
from habitus.training.objectives import Loss, Objective, ratios, score
from habitus.training.rows import RowAdamW, clip_norm, share_rows, unshared
from habitus.training.throughput import Meter

if TYPE_CHECKING:
    from habitus.training.fit import Loader, TrainingConfig


@dataclass(frozen=True)
class Fed:
    """A batch on its way to a step, with what must be known of it without waiting for a device."""

    batch: Any
    after: dict[str, Any]  # the loader's state once this batch is used
    n_positions: int
    waited: float  # seconds until the loader gave it
    is_extra: bool = False  # seen already: devices that shard a model must all call it equally often


class Feed:
    """A loader as Lightning sees it: goes on at the place of the run, counts and clocks every batch.

    Lightning looks one batch ahead, so the loader's own state runs ahead of the step; each batch therefore carries the
    state that follows it. With n devices, each takes every n-th batch, and a loader with `share` makes no others. In
    training, a step takes `per_step` batches over all devices; what is left over at the end of an epoch is dropped.
    """

    def __init__(self, loader: Loader, place: Place | None = None, per_step: int = 1) -> None:
        self.loader, self.place, self.per_step = loader, place, per_step

    def __iter__(self) -> Iterator[Fed]:
        rank, n_devices = (dist.get_rank(), dist.get_world_size()) if _is_distributed() else (0, 1)
        n_rounds = None
        if self.place is not None:
            self.loader.set_epoch(self.place.epoch)
            if self.place.loader is not None:
                self.loader.load_state_dict(self.place.loader)
            per_step = n_devices if self.per_step % n_devices else self.per_step
            n_rounds = (len(self.loader) // per_step - self.place.batch) * per_step // n_devices
            if hasattr(self.loader, "share"):
                self.loader.share = rank, n_devices  # pyright: ignore
        yield from self._rounds(rank, n_devices, n_rounds)

    def _rounds(self, rank: int, n_devices: int, n_rounds: int | None) -> Iterator[Fed]:
        """Give this device's batch of every round of n batches; in reading, of the last round too, however short."""
        mine, is_new, began, n_done = None, False, time.perf_counter(), 0
        n = -1
        for n, batch in enumerate(self.loader if n_rounds != 0 else ()):
            if n % n_devices == rank or mine is None:
                mine, is_new = batch, n % n_devices == rank
            if n % n_devices == n_devices - 1:
                waited = time.perf_counter() - began
                yield Fed(mine, self.loader.state_dict(), int((~mine.is_padding).sum()), waited)  # pyright: ignore
                is_new, began, n_done = False, time.perf_counter(), n_done + 1
                if n_done == n_rounds:
                    return
        if n_rounds is None and (n + 1) % n_devices:
            yield Fed(mine, {}, 0, 0.0, is_extra=not is_new)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints written beside, then renamed; read without running code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = True) -> dict[str, Any]:
        return read_whole(Path(path)) if Path(path).is_dir() else read_checkpoint(Path(path))


class Adapter(pl.LightningModule):
    """Runs `objective(model, batch)`; knows where the run stands, and writes it down.

    Lightning's own loop counters are left out of checkpoints: the place of the run is `place` alone, and a resumed run
    is a new run of Lightning that begins there.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, config: TrainingConfig, place: Place, folder: Path, n_batches: int
    ) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.config, self.place, self.folder, self.n_batches = config, place, folder, n_batches
        self.average = Average(config.averaging, decay=config.ema_decay, n_epochs=config.average_epochs)
        self.meter, self.recent = Meter(1.0), Meter(1.0)
        self.n_epochs = config.epochs
        self._ddp_params_and_buffers_to_ignore = unshared(self)  # the name by which DDP looks for them
        self._sums: list[Tensor] | None = None
        self._valid: list[Tensor] = []
        self._average_state: dict[str, Any] | None = None
        self._loss: Loss | None = None
        self._log: StepLog | None = None
        self._bar: tqdm | None = None
        self._clock = 0.0

    # the run: start, end, state ------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return RowAdamW(
            parameter_groups(self, self.config.weight_decay), lr=self.config.lr, betas=self.config.betas, fused=True
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.pop("loops", None)
        sums = [s.tolist() for s in (self._summed(self._sums) if self._sums else ()) if s is not None]
        checkpoint["place"] = replace(self.place, sums=dict(zip(("sums", "counts", "base"), sums))).to_state()
        checkpoint["average"] = self.average.state_dict()

    def configure_model(self) -> None:
        """Cut the weights over the devices where the strategy says so; each is called once, in place."""
        if is_sharded(self.trainer.strategy):
            shard(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._average_state = checkpoint["average"]
        if not is_sharded(self.trainer.strategy) and isinstance(checkpoint.get("optimizer_states"), list):
            known = {id(weight): name for name, weight in self.named_parameters()}
            groups = parameter_groups(self, self.config.weight_decay)
            names = [known[id(weight)] for group in groups for weight in group["params"]]
            checkpoint["optimizer_states"] = [by_number(state, names) for state in checkpoint["optimizer_states"]]

    def on_train_start(self) -> None:
        names = [f"loss {name}" for name in self.objective.names]
        columns = ["step", "epoch", "lr", "loss", *names, "positions_per_second", "mfu", "wait_share"]
        if self.trainer.is_global_zero and "csv" in self.config.loggers:
            self._log = StepLog(self.folder / LOG, columns, after_step=self.place.step)
        if self._average_state is not None:  # only now are the weights where they will be trained
            self.average.load_state_dict(self._average_state, self.weights())
        if self.place.sums:  # those of all devices, which the first goes on with
            parts = [torch.tensor(s, dtype=torch.float64, device=self.device) for s in self.place.sums.values()]
            self._sums = [part * self.trainer.is_global_zero for part in parts]

    def close(self) -> None:
        """Close the log and the bar, however the run ended."""
        if self._log is not None:
            self._log.close()
        if self._bar is not None:
            self._bar.close()

    def weights(self) -> list[Tensor]:
        """The weights that are trained, model and objective."""
        return [p for p in self.parameters() if p.requires_grad]

    # a step --------------------------------------------------------------------------------------------------------

    def transfer_batch_to_device(self, batch: Fed, device: torch.device, dataloader_idx: int) -> Fed:
        return batch if device.type == "cpu" else replace(batch, batch=batch.batch.to(device))

    def on_train_epoch_start(self) -> None:
        if self.trainer.is_global_zero and sys.stderr.isatty():
            label = f"epoch {self.place.epoch + 1}/{self.config.epochs}"
            self._bar = tqdm(total=self.n_batches, initial=self.place.batch, desc=label, leave=False, unit="step")
        self._clock = time.perf_counter()

    def training_step(self, batch: Fed, batch_idx: int) -> Tensor:
        rate = self.config.lr * rate_at(self.config, self.progress(), self.n_batches)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        turn = batch_idx % self.trainer.accumulate_grad_batches * self.trainer.world_size + self.global_rank
        torch.manual_seed(derive(self.config.seed, "step", self.place.step, turn))
        loss: Loss = self.objective(self.model, batch.batch)
        if self.device.type == "cpu" or self._is_due(self.config.log_every):
            self._check(loss)
        self._add(loss)
        self._loss = loss
        return loss.value

    def on_train_batch_end(self, outputs: Any, batch: Fed, batch_idx: int) -> None:
        place = self.place
        self._measure(batch)
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            self._clock = time.perf_counter()
            return  # the step is not whole yet
        place.step, place.batch, place.loader = place.step + 1, place.batch + 1, batch.after
        self.objective.after_step(self.progress())
        self.average.after_step(self.weights())
        if place.step % self.config.log_every == 0:
            self._report()
        if self._bar is not None:
            self._bar.update()
        every = self.config.checkpoint_every
        if every and place.step % every == 0 and not self.trainer.is_last_batch:
            self.save()  # the last batch of an epoch is followed by the checkpoint of that epoch
        self._clock = time.perf_counter()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Bring the gradients of tables by row together, which DDP leaves out."""
        if self._ddp_params_and_buffers_to_ignore and _is_distributed():
            share_rows(self.get_parameter(name) for name in self._ddp_params_and_buffers_to_ignore)

    def configure_gradient_clipping(self, optimizer: Any, *limits: Any, **named: Any) -> None:
        """Clip the norm over all weights here: Lightning's own way refuses fused optimisers under bf16."""
        if self.config.clip:
            own = getattr(self.trainer.strategy.model, "clip_grad_norm_", None)  # FSDP: weights are in pieces
            own(self.config.clip) if own else clip_norm(self.weights(), self.config.clip)

    def progress(self) -> float:
        """Share of the planned steps done."""
        return min(1.0, (self.place.epoch + self.place.batch / max(self.n_batches, 1)) / self.config.epochs)

    def save(self) -> None:
        """Write last.ckpt."""
        self.trainer.save_checkpoint(self.folder / LAST, weights_only=False)

    def _is_due(self, every: int) -> bool:
        return (self.place.step + 1) % every == 0

    def _check(self, loss: Loss) -> None:
        if math.isfinite(loss.value.item()):
            return
        wrong = [name for name, mean in zip(self.objective.names, loss.means.tolist()) if math.isinf(mean)]
        wrong += [n for n, s in zip(self.objective.names, loss.sums.tolist()) if math.isnan(s)]
        raise TrainingError(
            "a finite loss",
            f"{loss.value.item()} at step {self.place.step + 1}",
            where=", ".join(wrong) or "the sum of the targets",
            fix="lower the learning rate, or look for extreme values in the inputs and targets",
        )

    def _add(self, loss: Loss) -> None:
        parts = [loss.sums, loss.counts] + ([loss.base] if loss.base is not None else [])
        parts = [part.detach().double() for part in parts]
        self._sums = parts if self._sums is None else [total + part for total, part in zip(self._sums, parts)]

    def _measure(self, fed: Fed) -> None:
        n_samples, n_devices = len(fed.batch), self.trainer.world_size
        count: Callable[[float], float] | None = getattr(self.model, "flops", None)
        forward = count(fed.n_positions / max(n_samples, 1)) if count else 0.0
        step = {
            "n_samples": n_samples * n_devices,
            "n_positions": fed.n_positions * n_devices,
            "flops": 3.0 * n_samples * n_devices * forward,
            "seconds": time.perf_counter() - self._clock,
            "waited": fed.waited,
        }
        self.meter.add(**step)
        self.recent.add(**step)

    def _report(self) -> None:
        figures, self.recent = self.recent.figures(), Meter(self.meter.peak)
        assert self._loss is not None
        means = dict(zip((f"loss {name}" for name in self.objective.names), self._loss.means.tolist()))
        speed = {name: figures[name] for name in ("positions_per_second", "mfu", "wait_share")}
        value = self._loss.value.item()
        row = {"step": self.place.step, "epoch": self.place.epoch, "loss": value} | means | speed
        row["lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        if self._log is not None:
            self._log.write(row)
        for logger in self.trainer.loggers:
            logger.log_metrics({n: v for n, v in row.items() if n not in ("step", "epoch")}, step=self.place.step)
        if self._bar is not None:
            rate, mfu, waiting = speed.values()
            text = f"loss {value:.4f}, {rate:,.0f} positions/s, MFU {mfu:.1%}, waiting {waiting:.1%}"
            self._bar.set_postfix_str(text, refresh=False)

    # an epoch ------------------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        self._valid = []
        self.average.after_epoch(self.weights())
        self.average.swap(self.weights())

    def validation_step(self, batch: Fed, batch_idx: int) -> None:
        loss: Loss = self.objective(self.model, batch.batch)
        parts = [loss.sums, loss.counts] + ([loss.base] if loss.base is not None else [])
        parts = [part.detach().double() * (not batch.is_extra) for part in parts]
        self._valid = [total + part for total, part in zip(self._valid, parts)] if self._valid else parts

    def on_validation_end(self) -> None:
        self._close_epoch(self._valid)
        self.average.swap(self.weights())

    def on_train_epoch_end(self) -> None:
        if not self._valid:
            self.average.after_epoch(self.weights())
            self._close_epoch([])
        self._valid = []
        place = self.place
        place.epoch, place.batch, place.loader = place.epoch + 1, 0, None
        self._sums = None
        patience = self.config.patience
        is_waiting = patience is None or place.best_epoch is None or place.epoch - place.best_epoch < patience
        place.is_stopped_early = not is_waiting and place.epoch < self.n_epochs
        place.is_done = place.epoch >= self.n_epochs or place.is_stopped_early
        if place.is_done:
            self.trainer.should_stop = True
            if place.best_epoch is None:
                self._save_last_weights()
        self.save()
        if self._bar is not None:
            self._bar.close()

    def _close_epoch(self, valid: list[Tensor]) -> None:
        """Add the epoch's row; keep the weights if they are the best so far."""
        place, names = self.place, self.objective.names
        train = self._summed(self._sums or [])
        row: dict[str, Any] = {"epoch": place.epoch + 1, "step": place.step, "train": score(*train), "valid": None}
        row["train_targets"] = dict(zip(names, _plain(ratios(*train))))
        if valid:
            sums = self._summed(valid)
            row["valid"] = score(*sums)
            row["targets"] = dict(zip(names, _plain(ratios(*sums))))
            row["losses"] = dict(zip(names, _plain(sums[0] / sums[1])))
            if not math.isfinite(row["valid"]):
                found = "none usable" if not int(sums[1].sum()) else f"a loss of {row['valid']}"
                raise TrainingError("validation rows with targets", found, where=f"epoch {row['epoch']}")
            if row["valid"] < place.best_score:
                place.best_score, place.best_epoch = row["valid"], row["epoch"]
                self._save_weights(epoch=row["epoch"], score=row["valid"])
        place.history.append(row)
        for logger in self.trainer.loggers:
            logger.log_metrics({n: row[n] for n in ("train", "valid") if row[n] is not None}, step=place.step)

    def _summed(self, parts: list[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sums, counts and base-rate sums over all devices."""
        whole = [self.trainer.strategy.reduce(part.clone(), reduce_op="sum") for part in parts]
        sums, counts, *base = (part.cpu() for part in whole)
        return sums, counts, base[0] if base else None

    def _save_last_weights(self) -> None:
        self.average.swap(self.weights())
        self._save_weights(epoch=self.place.epoch)
        self.average.swap(self.weights())

    def _save_weights(self, **facts: Any) -> None:
        sharded = is_sharded(self.trainer.strategy)
        state = whole_weights(self) if sharded else self.trainer.strategy.lightning_module_state_dict()
        if self.trainer.is_global_zero:
            save_weights(self.folder / BEST, state, **facts)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def rate_at(config: TrainingConfig, progress: float, n_batches: int) -> float:
    """Share of the learning rate at `progress`: linear warm-up, then cosine to `lr_floor` or constant."""
    one_step = 1 / max(n_batches * config.epochs, 1)
    warm = max(config.warm_up, one_step)
    if progress + one_step < warm:
        return (progress + one_step) / warm
    if config.schedule == "constant":
        return 1.0
    share = (progress - warm) / max(1 - warm, one_step)
    return config.lr_floor + (1 - config.lr_floor) * 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices of linear, convolution and recurrent layers decay; biases, norms, positions and free vectors do not."""
    layers = (nn.Linear, nn.RNNBase, nn.Conv1d, nn.Bilinear)
    matrices = {
        id(p)
        for m in module.modules()
        if isinstance(m, layers)
        for n, p in m.named_parameters(recurse=False)
        if p.ndim > 1
    }
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in matrices], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in matrices], "weight_decay": 0.0},
    ]


def _plain(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
