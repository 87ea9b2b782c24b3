"""Gates: the state of a user's sequence becomes weights of experts that sum to 1.

Source: iLoRA, arXiv 2408.10159; the residual gate follows its released code, the others are ours. Letters: B rows, d
width of the state, N experts.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.core.errors import ConfigError
from habitus.core.seeds import uniforms

GateName = Literal["linear", "mlp", "resnet", "uniform", "random", "random_input"]


class GateConfig(Config):
    """What the user chooses.

    `linear` (weights zero at the start, so that step 0 is plain LoRA), `mlp`, `resnet` (its norm: `group` or, as
    released, `batch`), `uniform` (plain LoRA), `random` (fixed per user from the seed), `random_input` (a linear gate
    on a fixed random vector per user: mixing without information).

    >>> GateConfig(name="resnet").norm
    'group'
    """

    name: GateName = "linear"
    norm: Literal["group", "batch"] = "group"
    hidden: int = Field(128, gt=0)
    seed: int = 0


class Gate(nn.Module):
    """States (B d) and user keys (int64 [B]) in, weights out: B N, rows sum to 1.

    >>> gate = Gate(GateConfig(), d=64, n_experts=4)
    >>> gate(torch.randn(2, 64), np.zeros(2, np.int64)).tolist()
    [[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]
    >>> sum(p.numel() for p in gate.parameters())
    260
    """

    def __init__(self, config: GateConfig, d: int, n_experts: int) -> None:
        super().__init__()
        if n_experts < 1:
            raise ConfigError("at least 1 expert", str(n_experts), where="gate")
        self.config, self.d, self.n_experts = config, d, n_experts
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = _net(config, d, n_experts)

    @property
    def is_uniform(self) -> bool:
        """Whether every row has equal weights for good."""
        return self.config.name == "uniform"

    def forward(self, state: Tensor, key: np.ndarray) -> Tensor:
        if self.config.name == "uniform":
            return state.new_full((len(state), self.n_experts), 1 / self.n_experts)
        if self.config.name == "random":
            return _dirichlet(key, self.n_experts, self.config.seed).to(state)
        if self.config.name == "random_input":
            state = _normal(key, self.d, self.config.seed).to(state)
        assert self.net is not None
        return torch.softmax(self.net(state), dim=-1)


class ResNet(nn.Module):
    """Nine residual blocks over the state as a line: 16, then 32, then 64 channels, each half as long.

    >>> sum(p.numel() for p in ResNet(64, 4).parameters())
    90772
    """

    def __init__(self, d: int, n_experts: int, norm: str = "group") -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 16, 3, padding=1, bias=False)
        self.stem_norm = _norm(16, norm)
        widths = [16] * 3 + [32] * 3 + [64] * 3
        self.blocks = nn.ModuleList(Residual(low, high, norm) for low, high in zip([16, *widths], widths))
        self.out = nn.Linear(64, n_experts)

    def forward(self, state: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(state[:, None])))
        for block in self.blocks:
            x = block(x)
        return self.out(x.mean(dim=-1))


class Residual(nn.Module):
    """Two convolutions beside a shortcut; where the width doubles, that is every other place and zero channels."""

    def __init__(self, low: int, high: int, norm: str) -> None:
        super().__init__()
        self.step, self.grown = (1, 0) if low == high else (2, high - low)
        self.one = nn.Conv1d(low, high, 3, stride=self.step, padding=1, bias=False)
        self.two = nn.Conv1d(high, high, 3, padding=1, bias=False)
        self.norm_one, self.norm_two = _norm(high, norm), _norm(high, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_two(self.two(F.relu(self.norm_one(self.one(x)))))
        short = F.pad(x[..., :: self.step], (0, 0, self.grown // 2, self.grown - self.grown // 2))
        return F.relu(y + short)


def _norm(width: int, kind: str) -> nn.Module:
    return nn.GroupNorm(1, width) if kind == "group" else nn.BatchNorm1d(width)


def _net(config: GateConfig, d: int, n_experts: int) -> nn.Module | None:
    if config.name in ("uniform", "random"):
        return None
    if config.name == "resnet":
        net = ResNet(d, n_experts, config.norm)
        last = net.out
    elif config.name == "mlp":
        last = nn.Linear(config.hidden, n_experts)
        net = nn.Sequential(nn.Linear(d, config.hidden), nn.GELU(), last)
    else:
        net = last = nn.Linear(d, n_experts)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return net


def _dirichlet(key: np.ndarray, n: int, seed: int) -> Tensor:
    """Weights per user, spread evenly over all that sum to 1: exponential draws over their sum."""
    draws = np.stack([uniforms(seed, key, stream=f"expert {i}") for i in range(n)], axis=1)
    draws = -np.log1p(-draws) + 1e-12
    return torch.from_numpy(draws / draws.sum(axis=1, keepdims=True)).float()


def _normal(key: np.ndarray, d: int, seed: int) -> Tensor:
    """A standard normal vector per user (Box and Muller)."""
    one, two = (np.stack([uniforms(seed, key, stream=f"{s} {i}") for i in range(d)], axis=1) for s in ("r", "a"))
    return torch.from_numpy(np.sqrt(-2 * np.log1p(-one)) * np.cos(2 * np.pi * two)).float()


def gate_use(weights: np.ndarray, cluster: np.ndarray | None = None) -> dict[str, float | list[float]]:
    """Say how experts are used: weights [n, N] of n users -> shares, their spread, entropy, effective experts.

    `entropy` is that of the mean share over log N; `per_user_entropy` the mean of the users' own; `spread` the mean
    standard deviation between users; `information` how much the weights say of `cluster` [n], in nats.

    >>> found = gate_use(np.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> found["share"], found["effective"], found["per_user_entropy"]
    ([0.5, 0.5], 2.0, 0.0)
    """
    share, n = weights.mean(axis=0), weights.shape[1]
    own = _entropy(weights)
    scale = np.log(n) if n > 1 else 1.0
    found: dict[str, float | list[float]] = {
        "share": share.round(6).tolist(),
        "share_sd": weights.std(axis=0).round(6).tolist(),
        "entropy": float(_entropy(share[None])[0] / scale),
        "effective": float(np.exp(_entropy(share[None])[0])),
        "per_user_entropy": float(own.mean() / scale),
        "spread": float(weights.std(axis=0).mean()),
    }
    if cluster is not None:
        groups = [weights[cluster == c] for c in np.unique(cluster)]
        inside = sum(len(g) * float(_entropy(g.mean(axis=0)[None])[0]) for g in groups) / len(weights)
        found["information"] = float(_entropy(share[None])[0] - inside)
    return found


def gate_warnings(found: dict[str, float | list[float]]) -> list[str]:
    """Say what looks wrong in the use of experts: a share under 5 % or over 80 %, or users who hardly differ."""
    share = np.asarray(found["share"])
    said = [f"expert {i}: share {s:.1%}" for i, s in enumerate(share) if len(share) > 1 and (s < 0.05 or s > 0.8)]
    if len(share) > 1 and float(np.mean(found["spread"])) < 1e-3:
        said.append(f"weights hardly differ between users (spread {np.mean(found['spread']):.1e})")
    return said


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.maximum(p, 1e-12))).sum(axis=-1)
