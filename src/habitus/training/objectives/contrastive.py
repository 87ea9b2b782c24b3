"""Two views of a user are alike, other users of the batch are not; anchors differ; the bag's content is kept.

L = NCE(flat) + mean over anchors NCE(z) + decor + other. NCE: van den Oord et al. 2018, in the form of SimCLR (Chen et
al. 2020) over two views, one row per user; `barlow` takes the cross-correlation loss of Zbontar et al. 2021 instead.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.models.coles import ColesConfig
from habitus.models.layers.catalogue import lookup
from habitus.models.lurm import Lurm, LurmConfig, LurmOutput
from habitus.tokens.bags import Bags, ScaleBags
from habitus.tokens.views import ViewBatch
from habitus.training.objectives import Loss, Objective


class ContrastiveConfig(Config):
    """The weights of the terms. `paper_form` sets `decor` and `other` to 0.

    `negatives` interests are drawn per batch for `other` where V is larger; `tau` is the temperature of NCE.

    >>> ContrastiveConfig(paper_form=True).weights
    (1.0, 1.0, 0.0, 0.0)
    """

    kind: Literal["nce", "barlow"] = "nce"
    tau: float = Field(0.1, gt=0)
    flat: float = Field(1.0, ge=0)
    anchors: float = Field(1.0, ge=0)
    decor: float = Field(0.05, ge=0)
    other: float = Field(0.5, ge=0)
    negatives: int = Field(4096, gt=0)
    barlow: float = Field(0.005, gt=0)
    paper_form: bool = False

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """Of flat, anchors, decor and other, in force."""
        rest = (0.0, 0.0) if self.paper_form else (self.decor, self.other)
        return self.flat, self.anchors, *rest


class Contrastive(Objective):
    """The loss of a batch of views; owns the projectors, which no embedding passes.

    Terms are weighted, so that their mean over validation users is what early stopping sees.

    >>> Contrastive(ContrastiveConfig(), LurmConfig(size="tiny")).names
    ('flat', 'anchors', 'decor', 'other')
    """

    names = ("flat", "anchors", "decor", "other")

    def __init__(self, config: ContrastiveConfig, model: LurmConfig | ColesConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        d, _, _, p = model.widths
        wide = model.d_content
        with torch.device("meta"):  # drawn below
            self.project_flat = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, 128))
            self.project = nn.Linear(p, p)
            self.read = nn.Linear(p, d, bias=False)  # W of `other`
        self.to_empty(device="cpu")
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.zero_() if weight.ndim < 2 else weight.normal_(0, weight.shape[1] ** -0.5, generator=draw)
            self.project.weight.add_(torch.eye(p))
            self.read.weight[:p] = 8.0 * torch.eye(min(p, d), p)

    def forward(self, model: nn.Module, batch: ViewBatch) -> Loss:
        """Give the loss."""
        n = len(batch)
        output: LurmOutput = model(batch.bags)
        flat, vectors = self.project_flat(output.flat), self.project(output.vectors)
        anchors = [self._alike(vectors[:n, m], vectors[n:, m]) for m in range(vectors.shape[1])]
        terms = [
            self._alike(flat[:n], flat[n:]),
            torch.stack(anchors).mean(),
            decorrelation(output.vectors),
            self._other(model, output, batch.content, n),
        ]
        weighted = torch.stack([w * term for w, term in zip(self.config.weights, terms)])
        counts = torch.full((4,), n, device=weighted.device)
        return Loss(weighted.sum(), weighted.detach() * n, counts)

    def _alike(self, a: Tensor, b: Tensor) -> Tensor:
        if not len(a):
            return a.sum()
        if self.config.kind == "barlow":
            return barlow(a, b, self.config.barlow)
        scores = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / self.config.tau
        same = torch.arange(len(a), device=a.device)
        return (F.cross_entropy(scores, same) + F.cross_entropy(scores.T, same)) / 2

    def _other(self, model: nn.Module, output: LurmOutput, content: ScaleBags, n: int) -> Tensor:
        """Tell each view's content from the other view; each anchor speaks for the interests behind its gate."""
        if not self.config.weights[3] or not n:
            return output.flat.sum() * 0
        assert isinstance(model, Lurm)
        query = self.read(output.mass.sqrt()[..., None] * output.vectors).roll(n, dims=0)  # 2n M D
        n_all = len(model.table)
        few = min(self.config.negatives, n_all)
        ids = torch.randperm(n_all, device=query.device)[:few] if few < n_all else torch.arange(n_all)
        rows = lookup(ids.to(query.device), model.table)
        split = (model.gates(rows)[:, :, None] * rows[:, None]).flatten(1)  # few M*D
        total = (query.flatten(1) @ split.T).logsumexp(dim=1) + math.log(n_all / few)
        held = model.anchored(Bags((content,)))[0][0][:, 0]  # the sum over a bag's interests, before the product
        whose = torch.repeat_interleave(torch.arange(2 * n, device=query.device), content.offset.diff())
        size = query.new_zeros(2 * n).index_add_(0, whose, content.weight)
        mean = (query * held).sum(dim=(1, 2)) / size.clamp(min=1e-12)
        return torch.where(size > 0, total - mean, 0.0).mean()


def decorrelation(vectors: Tensor) -> Tensor:
    """Mean squared correlation over the batch between the numbers of different anchors; `vectors` is B M P.

    >>> round(float(decorrelation(torch.eye(4)[:, :1].repeat(1, 6).view(4, 2, 3))), 3)
    1.0
    """
    b, m, p = vectors.shape
    if m < 2 or b < 2:
        return vectors.sum() * 0
    centred = vectors - vectors.mean(dim=0)
    unit = (centred / (centred.square().sum(dim=0) + 1e-6).sqrt()).flatten(1)
    squared = (unit.T @ unit).square().view(m, p, m, p).mean(dim=(1, 3))
    return (squared.sum() - squared.diagonal().sum()) / (m * (m - 1))


def barlow(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Cross-correlation of two views, n W each: ones on the diagonal, noughts beside it, at `weight`."""
    one, two = ((x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + 1e-6).sqrt() for x in (a, b))
    cross = one.T @ two / len(a)
    on = (cross.diagonal() - 1).square().sum()
    return (on + weight * (cross.square().sum() - cross.diagonal().square().sum())) / a.shape[1]
