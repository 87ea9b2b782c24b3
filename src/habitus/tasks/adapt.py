"""Adapt: behaviours that a trained model has never met, and logs of another domain."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from habitus.core.errors import ConfigError
from habitus.core.seeds import derive, generator
from habitus.models.behavegpt import FIRST, BehaveGPT, key
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape, EventSpec
from habitus.training.objectives import Objective

Mode = Literal["head", "head_norms", "all"]
TRUNK = ("blocks.", "norm.", "fuse.")
SHARED_TABLES = ("gap", "weekday", "slot")


def grow(
    model: BehaveGPT,
    n_new: int,
    *,
    field: str = "type",
    similar: Sequence[Sequence[int]] = (),
    share: Sequence[float] = (),
) -> BehaveGPT:
    """Give a copy of the model with `n_new` more values of a field; every logit of an old value is as it was.

    Parameters
    ----------
    similar
        Per new value, ids of old values whose rows it starts at the mean of; by default all of them.
    share
        Per new value, how often it occurs among the examples at hand: its bias starts at the mean bias plus the log of
        share times the number of old values. By default the mean bias.

    >>> shape = EventShape((("gap", 9), ("type", 5)), 0, 16)
    >>> from habitus.models.behavegpt import BehaveGPTConfig
    >>> grow(BehaveGPT(BehaveGPTConfig(size="tiny", n_blocks=1), shape), 2).shape.n_rows("type")
    7
    """
    n_old = model.shape.n_rows(field)
    fields = tuple((name, n + n_new * (name == field)) for name, n in model.shape.fields)
    grown = BehaveGPT(model.config, dataclasses.replace(model.shape, fields=fields))
    every = list(range(FIRST, n_old))
    rows = [list(similar[i]) if i < len(similar) else every for i in range(n_new)]
    extra = torch.tensor([math.log(max(s, 1e-9) * len(every)) for s in share] or [0.0] * n_new)
    tables = {f"tables.{key(field)}.weight"}
    heads = [f"plain.{key(field)}.", f"chain.{key(field)}.head."]
    state = {}
    for name, value in model.state_dict().items():
        is_bias = name in {f"{head}out.bias" for head in heads}
        skipped = 0 if name in tables else FIRST  # a head has no rows for padding and unknown
        if name in tables or is_bias or name in {f"{head}out.weight" for head in heads}:
            new = torch.stack([value[[i - skipped for i in some]].mean(dim=0) for some in rows])
            value = torch.cat([value, new + extra if is_bias else new])
        state[name] = value
    grown.load_state_dict(state)
    return grown.train(model.training)


def grown_spec(spec: EventSpec, names: Sequence[str], *, field: str = "type") -> EventSpec:
    """Give the spec of a grown model: the new values come after the old ones, and are no longer held out.

    Errors: `ConfigError` for a value that the spec has.
    """
    there = set(names) & set(spec.values[field])
    if there:
        raise ConfigError("values that the model does not know", repr(sorted(there)[0]), where=field)
    held = tuple(name for name in spec.tokens.held_out if name not in names)
    values = {**spec.values, field: (*spec.values[field], *names)}
    return dataclasses.replace(spec, values=values, tokens=spec.tokens.model_copy(update={"held_out": held}))


def transfer(source: BehaveGPT, shape: EventShape, *, seed: int = 0, is_random: bool = False) -> BehaveGPT:
    """Give a model for another domain: blocks, norms, and the tables of gap and clock from `source`; the rest is new.

    Fields are told apart by name: one that both have but with another number of values is new. Gap bins keep their
    meaning only if the target's spec takes over the source's edges. With `is_random` nothing is copied: the rival with
    random blocks.
    """
    target = BehaveGPT(source.config, shape, seed=seed)
    if is_random:
        return target
    state, given = target.state_dict(), source.state_dict()
    shared = tuple(f"tables.{key(name)}." for name in SHARED_TABLES)
    for name, value in given.items():
        if name.startswith((*TRUNK, *shared)) and name in state and state[name].shape == value.shape:
            state[name] = value.clone()
    target.load_state_dict(state)
    return target


def of_mode(model: BehaveGPT, mode: Mode, field: str = "type") -> Callable[[str], float]:
    """Give, per weight, the factor of the learning rate that a mode trains it with: heads, heads and norms, or all.

    >>> shape = EventShape((("gap", 9), ("type", 5)), 0, 16)
    >>> from habitus.models.behavegpt import BehaveGPTConfig
    >>> model = BehaveGPT(BehaveGPTConfig(size="tiny", n_blocks=1), shape)
    >>> of_mode(model, "head")("blocks.0.out.weight"), of_mode(model, "head")("plain.of_type.out.weight")
    (0.0, 1.0)
    """
    heads = (f"plain.{key(field)}.", f"chain.{key(field)}.head.")
    norms = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.RMSNorm))
    if mode == "all":
        return lambda name: 1.0
    chosen = heads if mode == "head" else (*heads, *norms)
    return lambda name: float(name.startswith(chosen))


def tables_first(name: str) -> float:
    """The first stage of a transfer: tables and heads alone."""
    return float(not name.startswith(TRUNK))


def trunk_slowly(name: str) -> float:
    """The second stage of a transfer: everything, the trunk at 0.3 of the rate."""
    return 0.3 if name.startswith(TRUNK) else 1.0


def tune(
    model: BehaveGPT,
    objective: Objective,
    batches: Iterable[EventBatch],
    *,
    n_steps: int,
    factor: Callable[[str], float] = lambda name: 1.0,
    lr: float = 1e-3,
    pull: float = 0.0,
    seed: int = 0,
) -> BehaveGPT:
    """Train a model in place for `n_steps`, going round the batches; each weight at `factor(name)` x `lr`, 0 keeps it.

    `pull` adds pull x the squared distance from the weights at the start (L2-SP, Li et al., arXiv 1802.01483), so that
    few examples do not undo what many have taught. Short and without validation: for a long run use `habitus train`.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        groups.setdefault(factor(name), []).append(weight)
    moving = {f: weights for f, weights in groups.items() if f > 0}
    begin = [w.detach().clone() for weights in moving.values() for w in weights]
    optimiser = torch.optim.AdamW([{"params": w, "lr": lr * f} for f, w in moving.items()], weight_decay=0.0)
    model.train()
    objective.train()
    step = 0
    with torch.random.fork_rng(devices=[]):
        while step < n_steps:
            for batch in batches:
                if step == n_steps:
                    break
                torch.manual_seed(derive(seed, "tune", step))
                value = objective(model, batch).value
                if pull:
                    weights = [w for some in moving.values() for w in some]
                    value = value + pull * sum((w - b).square().sum() for w, b in zip(weights, begin))
                optimiser.zero_grad(set_to_none=True)
                model.zero_grad(set_to_none=True)
                value.backward()
                nn.utils.clip_grad_norm_([w for some in moving.values() for w in some], 1.0)
                optimiser.step()
                step += 1
                objective.after_step(step / n_steps)
    return model.eval()


def few_shots(
    batches: Sequence[EventBatch], column: int, classes: Sequence[int], k: int, *, replay: int = 10, seed: int = 0
) -> list[EventBatch]:
    """Keep k targets of each class, drawn at random, and `replay` targets of other classes per kept one.

    Gives the batches with all other targets switched off; batches without any left are dropped. Classes with fewer than
    k targets give all they have. `column` is the field's place in `next_ids`.
    """
    where, label = [], []
    for number, batch in enumerate(batches):
        row, at = torch.nonzero(batch.is_target, as_tuple=True)
        where.append(torch.stack([torch.full_like(row, number), row, at], dim=1))
        label.append(batch.next_ids[row, at, column])
    places, labels = torch.cat(where).numpy(), torch.cat(label).numpy()
    order = generator(seed, "few shots").permutation(len(labels))
    chosen = [order[labels[order] == c][:k] for c in classes]
    n_new = sum(len(c) for c in chosen)
    others = order[~np.isin(labels[order], classes)][: replay * n_new]
    kept = places[np.concatenate([*chosen, others])]
    found = []
    for number in np.unique(kept[:, 0]).tolist():
        mask = torch.zeros_like(batches[number].is_target)
        mine = kept[kept[:, 0] == number]
        mask[mine[:, 1], mine[:, 2]] = True
        rows = mask.any(dim=1)
        some = dataclasses.replace(batches[number], is_target=mask, remaining=batches[number].remaining * torch.nan)
        found.append(EventBatch(*(getattr(some, f.name)[rows] for f in dataclasses.fields(some))))
    return found
