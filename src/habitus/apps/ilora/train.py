"""Training of one adapter: answers told after prompts, item vectors in the slots more and more often.

Sources: iLoRA, arXiv 2408.10159 (groups of rates, cosine with warm-up), LLaRA, arXiv 2312.02445 (the curriculum).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from habitus.apps.ilora.candidates import epoch_candidates
from habitus.apps.ilora.gate import gate_use, gate_warnings
from habitus.apps.ilora.model import InstanceLora
from habitus.apps.ilora.prompts import PromptBatch
from habitus.apps.ilora.rows import Rows
from habitus.apps.ilora.states import ItemStates
from habitus.core.config import Config
from habitus.core.errors import ConfigError, TrainingError
from habitus.core.seeds import derive, generator, uniforms
from habitus.training.checkpoints import read_checkpoint, write_checkpoint


class IloraTraining(Config):
    """How an adapter is trained: `epochs` passes over `rows_per_epoch` train rows (0: all), drawn anew each pass.

    The gate's rate is `gate_rate` times `lr`: its weights start at zero, so that experts start alike and have to be
    pulled apart. `curriculum` off puts item vectors into the slots from the first step on. `balance` adds
    balance N sum(mean weight ^ 2). A checkpoint is kept every `checkpoint_every` steps (0: none).

    >>> IloraTraining().gate_rate
    10.0
    """

    epochs: int = Field(1, ge=1)
    rows_per_epoch: int = Field(0, ge=0)
    batch_size: int = Field(16, ge=1)
    accumulate: int = Field(1, ge=1)
    lr: float = Field(1e-3, gt=0)
    gate_rate: float = Field(10.0, gt=0)
    projector_rate: float = Field(1.0, gt=0)
    warmup: float = Field(0.05, ge=0, le=1)
    floor: float = Field(0.01, ge=0, le=1)
    weight_decay: float = Field(1e-5, ge=0)
    clip: float = Field(1.0, gt=0)
    curriculum: bool = True
    balance: float = Field(0.0, ge=0)
    checkpoint_every: int = Field(0, ge=0)
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """One optimiser step: its rows, their candidates, template per row and whether slots hold item vectors."""

    rows: Rows
    items: np.ndarray
    template: np.ndarray
    is_hybrid: bool


def hybrid_share(step: int, n_steps: int) -> float:
    """The chance that a step is hybrid: it grows from 0 to 1 over the steps.

    >>> hybrid_share(5, 10)
    0.5
    """
    return step / n_steps


def n_steps(rows: Rows, config: IloraTraining) -> int:
    """Optimiser steps of a whole training."""
    return config.epochs * steps_per_epoch(rows, config)


def steps_per_epoch(rows: Rows, config: IloraTraining) -> int:
    size = min(config.rows_per_epoch or len(rows), len(rows))
    return max(1, size // (config.batch_size * config.accumulate))


def make_step(rows: Rows, config: IloraTraining, step: int, n_templates: int) -> Step:
    """Give what step number `step` reads: a function of the seed and the step alone, so that a resume is exact."""
    per_epoch = steps_per_epoch(rows, config)
    epoch, at = divmod(step, per_epoch)
    size = config.batch_size * config.accumulate
    order = generator(config.seed, "rows", epoch).permutation(len(rows))
    chosen = rows.take(order[at * size : (at + 1) * size])
    drawn = uniforms(config.seed, np.array([step]), stream="hybrid")[0]
    share = hybrid_share(step, n_steps(rows, config)) if config.curriculum else 1.0
    items = epoch_candidates(chosen, seed=config.seed, epoch=epoch).items
    template = uniforms(derive(config.seed, epoch), chosen.at, stream="template") * n_templates
    return Step(chosen, items, template.astype(np.int64), bool(drawn < share))


def answer_loss(model: InstanceLora, batch: PromptBatch, weights: Tensor, *, is_hybrid: bool) -> Tensor:
    """Mean cross-entropy over the tokens of answers and their ends; the adapter's weights are `weights` (B N)."""
    logits = model(batch, weights, is_hybrid=is_hybrid, keep=batch.n_labels + 1).logits[:, :-1]
    labels = torch.from_numpy(batch.labels[:, -batch.n_labels :]).to(model.device)
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


def train_ilora(
    model: InstanceLora,
    rows: Rows,
    source: ItemStates,
    config: IloraTraining,
    *,
    folder: str | Path | None = None,
    say: Callable[[str], Any] = print,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Train the active adapter in place and give what was seen: losses, seconds, use of the experts.

    With `folder`, a checkpoint there is read first and training goes on from it: the next losses are the same as
    without the break.
    Errors: `TrainingError` for no rows, or a loss that is not finite.
    """
    if not len(rows):
        raise TrainingError("train rows", "none", where="ilora", fix="use a log with longer histories")
    groups = model.trained()
    stepper = _stepper(groups, config)
    total, began = n_steps(rows, config), time.perf_counter()
    step, history = _resume(folder, model, stepper)
    model.train()
    model.causal.eval()  # dropout of the base stays off; that of the adapter is PEFT's own module
    model.peft.train(config_has_dropout(model))
    while step < min(total, stop_after or total):
        one = make_step(rows, config, step, model.prompts.n_templates)
        rate = _rate(step, total, config)
        for group in stepper.param_groups:
            group["lr"] = group["base"] * rate
        loss = _step(model, one, source, config)
        if not math.isfinite(loss):
            raise TrainingError("a finite loss", f"{loss} at step {step}", where="ilora", fix="lower lr")
        torch.nn.utils.clip_grad_norm_([p for group in groups.values() for p in group], config.clip)
        stepper.step()
        stepper.zero_grad(set_to_none=True)
        step += 1
        history.append({"step": step, "loss": loss, "is_hybrid": one.is_hybrid})
        if step % 25 == 0 or step == total:
            say(f"step {step} of {total}  loss {np.mean([h['loss'] for h in history[-25:]]):.3f}")
        if folder and config.checkpoint_every and step % config.checkpoint_every == 0:
            _save(Path(folder), model, stepper, step, history)
    model.eval()
    return _facts(model, rows, source, history, time.perf_counter() - began)


def config_has_dropout(model: InstanceLora) -> bool:
    """Whether the adapter has dropout: only then is PEFT's tree put into training mode."""
    return model.current.config.mix.dropout > 0


def _step(model: InstanceLora, one: Step, source: ItemStates, config: IloraTraining) -> float:
    """Add the gradients of one step, in pieces of `batch_size` rows; give its loss."""
    total, pieces = 0.0, np.array_split(np.arange(len(one.rows)), config.accumulate)
    for some in pieces:
        rows = one.rows.take(some)
        batch = model.prompts.batch(rows.history(), one.items[some], rows.target, one.template[some])
        weights = model.weights(source.states(rows), rows.keys)
        is_hybrid = one.is_hybrid and model.current.config.is_hybrid
        loss = answer_loss(model, batch, weights, is_hybrid=is_hybrid)
        if config.balance:
            loss = loss + config.balance * weights.shape[1] * weights.mean(dim=0).square().sum()
        (loss * (len(some) / len(one.rows))).backward()
        total += float(loss.detach()) * len(some) / len(one.rows)
    return total


def _stepper(groups: dict[str, list[Any]], config: IloraTraining) -> torch.optim.AdamW:
    scale = {"lora": 1.0, "gate": config.gate_rate, "projector": config.projector_rate}
    decay = {"lora": 0.0, "gate": 0.0, "projector": config.weight_decay}
    made = [
        {"params": group, "lr": config.lr * scale[name], "base": config.lr * scale[name], "weight_decay": decay[name]}
        for name, group in groups.items()
        if group
    ]
    if not made:
        raise ConfigError("parameters to train", "none", where="ilora")
    return torch.optim.AdamW(made, betas=(0.9, 0.99))


def _rate(step: int, total: int, config: IloraTraining) -> float:
    """Linear warm-up from the floor, then a cosine back to it."""
    warm = max(1, round(config.warmup * total))
    if step < warm:
        return config.floor + (1 - config.floor) * (step + 1) / warm
    return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _save(folder: Path, model: InstanceLora, stepper: torch.optim.Optimizer, step: int, history: list) -> None:
    groups = model.trained()
    values = {f"{name}.{i}": p.detach() for name, group in groups.items() for i, p in enumerate(group)}
    kept = {"step": step, "history": history, "values": values, "stepper": stepper.state_dict()}
    write_checkpoint(folder / "checkpoint.pt", kept)


def _resume(folder: str | Path | None, model: InstanceLora, stepper: torch.optim.Optimizer) -> tuple[int, list]:
    file = Path(folder or "") / "checkpoint.pt"
    if folder is None or not file.is_file():
        return 0, []
    kept = read_checkpoint(file)
    with torch.no_grad():
        for name, group in model.trained().items():
            for i, p in enumerate(group):
                p.copy_(kept["values"][f"{name}.{i}"])
    stepper.load_state_dict(kept["stepper"])
    return int(kept["step"]), kept["history"]


@torch.no_grad()
def _facts(model: InstanceLora, rows: Rows, source: ItemStates, history: list, seconds: float) -> dict[str, Any]:
    some = rows.take(np.sort(generator(0, "gate use").permutation(len(rows))[:1000]))
    weights = model.weights(source.states(some), some.keys).cpu().numpy()
    found = gate_use(weights)
    last = [h["loss"] for h in history[-25:]]
    return {
        "steps": len(history),
        "seconds": seconds,
        "loss": float(np.mean(last)) if last else None,
        "n_trained": {name: sum(p.numel() for p in group) for name, group in model.trained().items()},
        "gate": found,
        "warnings": [] if model.current.gate.is_uniform else gate_warnings(found),
        "losses": [round(h["loss"], 5) for h in history],
    }
