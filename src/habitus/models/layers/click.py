"""What the models of clicks share: the batch, the tables, and the tower in which everything known of a row meets.

Shape letters: B rows, T tokens, J fields of a token, S static fields, N dense features, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.models.layers.catalogue import lookup

CATE, BRAND, KIND, GAP, HOUR, RUN, REPEATS = range(7)  # places of the fields in a token
N_GAPS, N_HOURS, N_RUNS, N_REPEATS = 32, 12, 8, 16
D_FIELD = {"tiny": 8, "small": 16, "base": 32, "large": 32}
TOKENS = {"tiny": 20, "small": 50, "base": 50, "large": 200}
TOWERS = {"tiny": (64, 32), "small": (256, 128, 64), "base": (512, 256, 128), "large": (512, 256, 128)}


class ClickNetConfig(Config):
    """What the user chooses of any network of clicks: one dial, and what departs from it (0: as the size says).

    Static fields of more than `most_codes` codes are not read by the layers (0: all are). Without `has_wide` no code
    has a weight of its own beside the layers; choose both where the log odds begin at those of a linear model.

    >>> ClickNetConfig(size="tiny").tokens, ClickNetConfig(d_field=5).width
    (20, 5)
    """

    size: Literal["tiny", "small", "base", "large"] = "small"
    n_tokens: int = Field(default=0, ge=0)
    d_field: int = Field(default=0, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    most_codes: int = Field(default=0, ge=0)
    has_wide: bool = True

    @property
    def tokens(self) -> int:
        """Tokens of the history that are read, T."""
        return self.n_tokens or TOKENS[self.size]

    @property
    def width(self) -> int:
        """Width of a field's vector."""
        return self.d_field or D_FIELD[self.size]


@dataclass(frozen=True)
class ClickShape:
    """What the data implied: codes per static field, dense features, codes of the target and of the history."""

    static_sizes: tuple[int, ...]
    n_dense: int
    n_cates: int
    n_brands: int
    n_kinds: int


@dataclass(frozen=True)
class ClickBatch:
    """Impressions as tensors. Padding may stand in front; the last token is the latest."""

    tokens: Tensor  # int64 B T 7: category, brand, kind, gap bucket, hour slot, run, repeats
    is_padding: Tensor  # bool B T
    static: Tensor  # int64 B S
    dense: Tensor  # float32 B N
    target: Tensor  # int64 B 2: category and brand of the ad
    label: Tensor  # float32 B
    offset: Tensor | None = None  # float32 B: log odds from elsewhere, to which the model adds its own

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device | str) -> ClickBatch:
        """Move every tensor."""
        found = (getattr(self, f.name) for f in fields(self))
        return ClickBatch(*(None if part is None else part.to(device) for part in found))  # pyright: ignore


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Draw weights from `seed` alone; the random state of the process stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Tables(nn.Module):
    """Vectors of what is in a token and in an ad: category and brand, shared by both, and the kind (last: the ad)."""

    def __init__(self, shape: ClickShape, d_field: int, *, has_kind: bool = True) -> None:
        super().__init__()
        self.cate = nn.Parameter(torch.randn(shape.n_cates, d_field) * d_field**-0.5)
        self.brand = nn.Parameter(torch.randn(shape.n_brands, d_field) * d_field**-0.5)
        self.kind = nn.Parameter(torch.randn(shape.n_kinds + 1, d_field) * d_field**-0.5) if has_kind else None

    def ad(self, target: Tensor) -> Tensor:
        """Give B 2D, category and brand side by side."""
        return torch.cat([lookup(target[:, 0], self.cate), lookup(target[:, 1], self.brand)], -1)

    def history(self, tokens: Tensor) -> Tensor:
        """Give B T 3D: category, brand and, where there is a table of kinds, kind."""
        parts = (self.cate, self.brand, self.kind)
        found = [lookup(tokens[..., j], table) for j, table in enumerate(parts) if table is not None]
        return torch.cat(found, -1)

    def touched(self, batch: ClickBatch) -> list[tuple[Tensor, Tensor]]:
        """List (table, ids read by the batch)."""
        ids = [torch.cat([batch.tokens[..., j].flatten(), batch.target[:, j]]) for j in (CATE, BRAND)]
        return [(self.cate, ids[0]), (self.brand, ids[1])]


class Tower(nn.Module):
    """Static fields, dense features and what a model read from the history -> one logit B.

    One table holds all static fields; each code also has a weight of its own that is added to the logit (`wide`), so
    that what is merely additive need not pass through the layers; what was read of the history has a straight way
    too. Log odds that the batch brings (`offset`) are added. Dense features enter as Linear -> LayerNorm -> 64.
    Sources: Cheng et al. 2016 (wide and deep).
    """

    first: Tensor

    def __init__(self, shape: ClickShape, config: ClickNetConfig, d_read: int) -> None:
        super().__init__()
        d_field, sizes = config.width, shape.static_sizes
        self.read = [j for j, n in enumerate(sizes) if not config.most_codes or n <= config.most_codes]
        first = torch.tensor([0, *sizes[:-1]], dtype=torch.int64).cumsum(0)[: len(sizes)]
        self.register_buffer("first", first, persistent=False)
        self.static = nn.Parameter(torch.randn(sum(sizes), d_field) * 0.01)
        self.wide = nn.Parameter(torch.zeros(sum(sizes), 1)) if config.has_wide else None
        self.door = nn.Sequential(nn.Linear(shape.n_dense, 64), nn.LayerNorm(64)) if shape.n_dense else None
        width = len(self.read) * d_field + (64 if shape.n_dense else 0) + d_read
        layers: list[nn.Module] = []
        for wider in TOWERS[config.size]:
            layers += [nn.Linear(width, wider), nn.ReLU(), nn.Dropout(config.dropout)]
            width = wider
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))
        self.straight = nn.Linear(d_read, 1, bias=False)
        nn.init.zeros_(self.straight.weight)
        self.layers[-1].weight.data.mul_(0.1)  # pyright: ignore

    def forward(self, batch: ClickBatch, read: Sequence[Tensor]) -> Tensor:
        ids = batch.static + self.first
        parts = [lookup(ids[:, self.read], self.static).flatten(1), *read]
        if self.door is not None:
            parts.append(self.door(batch.dense))
        logit = (self.layers(torch.cat(parts, -1)) + self.straight(torch.cat(list(read), -1)))[:, 0]
        if self.wide is not None:
            logit = logit + lookup(ids, self.wide)[..., 0].sum(-1)
        return logit if batch.offset is None else logit + batch.offset

    def touched(self, batch: ClickBatch) -> list[tuple[Tensor, Tensor]]:
        """List (table, ids read by the batch)."""
        ids = batch.static + self.first
        found: list[tuple[Tensor, Tensor]] = [(self.static, ids[:, self.read].flatten())] if self.read else []
        return found if self.wide is None else [*found, (self.wide, ids.flatten())]


def same(batch: ClickBatch) -> Tensor:
    """Give B T 2 float: is the token's category that of the ad, is its brand? Unknown (0) is never the same."""
    found = batch.tokens[..., :2]
    return ((found == batch.target[:, None]) & (found > 0) & ~batch.is_padding[..., None]).float()
