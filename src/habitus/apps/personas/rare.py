"""Train the network of the rare actions on rare rows, and answer with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from habitus.apps.personas.design import Design
from habitus.apps.personas.settings import RareSettings
from habitus.core.seeds import generator
from habitus.metrics.macro_f1 import macro_f1
from habitus.models.rare_action import RareAction, RareActionConfig

_BLOCK = 16_384


@dataclass
class RareNet:
    """A network, the scale of its numbers, the personas it knows, and the temperature fitted on validation."""

    model: RareAction
    mean: np.ndarray
    scale: np.ndarray
    personas: np.ndarray
    temperature: float = 1.0
    shift: np.ndarray | None = None  # log of the class weights, taken back so that probabilities are those of the rows

    def logits(self, design: Design, cluster: np.ndarray) -> np.ndarray:
        """Give logits over the rare actions, float64 [n, R]."""
        text, numbers, persona = self.inputs(design, cluster)
        self.model.eval()
        found = []
        with torch.no_grad():
            for start in range(0, len(cluster), _BLOCK):
                some = slice(start, start + _BLOCK)
                found.append(self.model(text[some], numbers[some], persona[some]).double().numpy())
        return np.concatenate(found) if found else np.zeros((0, self.model.config.n_actions))

    def predict(self, design: Design, cluster: np.ndarray) -> np.ndarray:
        """Give probabilities over the rare actions, given that the action is rare."""
        return softmax(self.logits(design, cluster) / self.temperature - (0 if self.shift is None else self.shift))

    def inputs(self, design: Design, cluster: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give text, standardised numbers (kept within 6 deviations) and persona places."""
        numbers = np.clip((design.numbers[:, : len(self.mean)] - self.mean) / self.scale, -6, 6)
        place = np.minimum(np.searchsorted(self.personas, cluster), len(self.personas) - 1)
        place = np.where(self.personas[place] == cluster, place + 1, 0)
        return torch.from_numpy(design.vectors), torch.from_numpy(numbers.astype(np.float32)), torch.from_numpy(place)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write rare.safetensors; give the values that belong beside it."""
        save_file(self.model.state_dict(), folder / "rare.safetensors")
        return {
            "config": self.model.config.model_dump(), "temperature": self.temperature,
            "shift": None if self.shift is None else self.shift.tolist(), "mean": self.mean.tolist(),
            "scale": self.scale.tolist(), "personas": self.personas.tolist(),
        }  # fmt: skip

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> RareNet:
        """Read what `save` wrote."""
        model = RareAction(RareActionConfig.parse(facts["config"], where=str(folder)))
        model.load_state_dict(load_file(folder / "rare.safetensors"))
        mean, scale = (np.asarray(facts[name], np.float32) for name in ("mean", "scale"))
        return cls(
            model,
            mean,
            scale,
            np.asarray(facts["personas"], np.int64),
            facts["temperature"],
            np.asarray(facts["shift"]),
        )


def fit_rare(
    settings: RareSettings, train: Design, cluster: np.ndarray, y: np.ndarray, valid: Design, valid_cluster: np.ndarray,
    valid_y: np.ndarray, n_actions: int, *, seed: int, n_text: int = 0,
) -> RareNet:  # fmt: skip
    """Fit on rare rows: y are places among the rare actions. The best epoch by macro-F1 on validation is kept.

    `n_text` columns at the end of the numbers repeat the text and are left to the text side.
    """
    numbers = train.numbers[:, : train.numbers.shape[1] - n_text]
    mean, scale = numbers.mean(axis=0), numbers.std(axis=0)
    config = RareActionConfig(
        d_in=train.vectors.shape[1], n_numbers=numbers.shape[1], n_personas=np.unique(cluster).size,
        n_actions=n_actions,
        **{k: getattr(settings, k) for k in ("d_text", "d_numbers", "d_persona", "width", "dropout")},
    )  # fmt: skip
    net = RareNet(
        RareAction(config, seed=seed), mean, np.where(scale > 1e-6, scale, 1).astype(np.float32), np.unique(cluster)
    )
    inputs, target = net.inputs(train, cluster), torch.from_numpy(y.astype(np.int64))
    weight = _class_weight(settings, y, n_actions)
    optimiser = torch.optim.AdamW(net.model.parameters(), lr=settings.lr, weight_decay=settings.decay)
    best, best_score, waited = net.model.state_dict(), -1.0, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(settings.epochs):
            _epoch(net.model, optimiser, inputs, target, weight, settings, seed, epoch)
            score = (
                macro_f1(valid_y, net.logits(valid, valid_cluster).argmax(axis=1), n_actions) if len(valid_y) else epoch
            )
            if score > best_score:
                best, best_score, waited = {k: v.clone() for k, v in net.model.state_dict().items()}, score, 0
            else:
                waited += 1
            if waited >= settings.patience:
                break
    net.model.load_state_dict(best)
    net.shift = np.log(weight.double().numpy())
    if len(valid_y):
        net.temperature = _temperature(net.logits(valid, valid_cluster), net.shift, valid_y)
    return net


def _epoch(model: RareAction, optimiser: Any, inputs: Any, target: torch.Tensor, weight: torch.Tensor,
           settings: RareSettings, seed: int, epoch: int) -> None:  # fmt: skip
    model.train()
    order = torch.from_numpy(generator(seed, "rare", epoch).permutation(len(target)))
    for rows in order.split(settings.batch):
        logits = model(*(each[rows] for each in inputs))
        log_p = F.log_softmax(logits, dim=-1).gather(1, target[rows, None])[:, 0]
        focus = (1 - log_p.exp()) ** settings.gamma  # Lin et al. 2017
        loss = -(weight[target[rows]] * focus * log_p).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _class_weight(settings: RareSettings, y: np.ndarray, n_actions: int) -> torch.Tensor:
    """(1 - beta) / (1 - beta^n), mean 1 over rows (Cui et al. 2019)."""
    n = np.maximum(np.bincount(y, minlength=n_actions), 1)
    weight = (1 - settings.beta) / (1 - settings.beta**n)
    return torch.from_numpy((weight / np.average(weight, weights=n)).astype(np.float32))


def _temperature(logits: np.ndarray, shift: np.ndarray, y: np.ndarray) -> float:
    """The divisor with the least log loss, on a grid."""
    grid = np.geomspace(0.3, 4.0, 41)
    losses = [-np.log(softmax(logits / t - shift)[np.arange(len(y)), y] + 1e-12).mean() for t in grid]
    return float(grid[int(np.argmin(losses))])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Give probabilities along the last axis."""
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)
