"""What happens next: one field of the next event, among all of its values or a sample of them.

Letters: n targets of a batch, V rows of the field's table, W width of a query, m sampled values.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.core.errors import ConfigError
from habitus.models.layers.catalogue import FIRST, lookup
from habitus.tokens.batch import EventBatch
from habitus.training.objectives import Loss, Objective
from habitus.training.objectives.robust import Robust, RobustConfig

FULL_SOFTMAX = 50_000  # rows up to which validation scores every value
CHUNK = 2**21  # logits held at a time: 8 MB
TOP = 10  # of the NDCG that may be watched


class NextEventConfig(Config):
    """Which field is predicted, and by which loss.

    `full` compares the right value with all others; `sampled` with `n_negatives` values drawn evenly for the whole
    batch, and with `in_batch` also with the other answers of the batch; `is_corrected` makes up for how often a value
    is drawn (log-q), so that the loss estimates the full one. `bce` is the binary loss against `n_negatives` values per
    target: of interest as the weak form that older work used. `watch` says what validation looks at: the full
    cross-entropy over that of the training shares, or 1 - NDCG@10, seen values not filtered.

    >>> NextEventConfig(field="item", loss="sampled").n_negatives
    256
    """

    field: str = "type"
    loss: Literal["full", "sampled", "bce"] = "full"
    n_negatives: int = Field(256, ge=1)
    in_batch: bool = False
    is_corrected: bool = False
    watch: Literal["loss", "ndcg"] = "loss"
    robust: RobustConfig = Field(default_factory=lambda: RobustConfig.parse({}))


class NextEvent(Objective):
    """The cross-entropy of one field of the next event, on the positions that are targets.

    It asks the model for `query(hidden, field)` and `output(field)` only where there is a target. In evaluation mode
    the loss is the full cross-entropy (above 50,000 rows a sampled one with the same draw every time). Targets whose
    value is unknown are left out.

    Parameters
    ----------
    config
        What the user chose.
    column
        The field's place in `ids`.
    counts
        Training targets per id of the field [V]: the base rate, and the shares of robust losses.

    Errors: `ConfigError` for a robust loss together with sampling.

    Sources: sampled softmax, Jean et al., arXiv 1412.2007; log-q correction, Bengio and Senecal, 2008.

    >>> objective = NextEvent(NextEventConfig(field="item"), 0, torch.ones(9))
    >>> objective.names
    ('item',)
    """

    log_share: Tensor

    def __init__(self, config: NextEventConfig, column: int, counts: Tensor) -> None:
        super().__init__()
        self.config, self.column, self.names = config, column, (config.field,)
        is_robust = config.robust.name != "erm"
        if is_robust and config.loss != "full":
            raise ConfigError("loss = 'full' with a robust loss", repr(config.loss), where="objective.loss")
        counts = counts.float().clone()
        counts[:FIRST] = 0
        self.robust: Robust | None = Robust(config.robust, counts) if is_robust else None
        shares = counts.clamp(min=0.5)  # a value that training lacks counts as half a target
        shares[:FIRST] = 0
        self.register_buffer("log_share", (shares / shares.sum()).clamp(min=1e-30).log())

    def extra_repr(self) -> str:
        return repr(self.config)

    def forward(self, model: nn.Module, batch: EventBatch) -> Loss:
        told = batch.next_ids[..., self.column]
        is_asked = batch.is_target & (told >= FIRST)
        target = told[is_asked]
        asking: Any = model
        query = asking.query(model(batch)[is_asked], self.config.field)
        weight, bias = asking.output(self.config.field)
        if self.training:
            value, total, is_full = self._training(query, weight, bias, target)
            return self._loss(value, total, target, is_full)
        if self.config.watch == "ndcg":
            missed = missed_ndcg(query, weight, bias, target).sum()
            n = torch.tensor([len(target)], device=target.device)
            return Loss(missed / max(len(target), 1), missed[None].detach(), n, n.to(missed.dtype))
        is_sampled = len(weight) > FULL_SOFTMAX and self.config.loss == "sampled"
        total = self._sampled(query, weight, bias, target) if is_sampled else full(query, weight, bias, target)
        return self._loss(total / max(len(target), 1), total, target, True)

    def after_step(self, progress: float) -> None:
        """Update the running losses of a robust loss."""
        if self.robust is not None:
            self.robust.after_step(progress)

    def _loss(self, value: Tensor, total: Tensor, target: Tensor, has_base: bool) -> Loss:
        n = torch.tensor([len(target)], device=target.device)
        return Loss(value, total.detach()[None], n, -self.log_share[target].sum()[None] if has_base else None)

    def _training(
        self, query: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor
    ) -> tuple[Tensor, Tensor, bool]:
        """Value to minimise, summed loss, and whether the sum is a full cross-entropy."""
        if self.robust is not None:
            found = self.robust(_logits(query, weight, bias), target)
            return found.value, found.ce.sum(), True
        if self.config.loss == "full":
            total = full(query, weight, bias, target)
        elif self.config.loss == "sampled":
            total = self._sampled(query, weight, bias, target)
        else:
            total = self._binary(query, weight, bias, target)
        return total / max(len(target), 1), total, self.config.loss == "full"

    def _sampled(self, query: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
        """Summed cross-entropy of the targets among themselves and the sampled values."""
        drawn, log_count = self._drawn(len(weight), target)
        table = lookup(torch.cat([target, drawn]), weight)
        logits = query @ table[len(target) :].T
        right = (query * table[: len(target)]).sum(dim=-1)
        if bias is not None:
            logits, right = logits + bias[drawn], right + bias[target]
        logits = (logits - log_count).masked_fill(drawn == target[:, None], -torch.inf)
        return (torch.logsumexp(torch.cat([right[:, None], logits], dim=1), dim=1) - right).sum()

    def _drawn(self, n_rows: int, target: Tensor) -> tuple[Tensor, Tensor]:
        """Sampled ids [m], and the log of how often each is expected among them: 0 without the correction."""
        n_values, m = n_rows - FIRST, self.config.n_negatives
        device = target.device
        if m >= n_values:
            return torch.arange(FIRST, n_rows, device=device), torch.zeros(n_values, device=device)
        draw = None if self.training else torch.Generator(device).manual_seed(0)
        ids = torch.randint(FIRST, n_rows, (m,), device=device, generator=draw)
        rate = torch.full((n_rows,), m / n_values, device=device)
        if self.config.in_batch:
            ids = torch.cat([ids, target.unique()])
            rate = rate - torch.expm1(len(target) * torch.log1p(-self.log_share.exp().clamp(max=0.999)))
        log_count = rate[ids].log() if self.config.is_corrected else torch.zeros(len(ids), device=device)
        return ids, log_count

    def _binary(self, query: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
        drawn = torch.randint(FIRST, len(weight), (len(target), self.config.n_negatives), device=target.device)
        ids = torch.cat([target[:, None], drawn], dim=1)
        logits = torch.einsum("nw,nmw->nm", query, lookup(ids, weight))
        logits = logits if bias is None else logits + bias[ids]
        wrong = F.softplus(logits[:, 1:]).masked_fill(drawn == target[:, None], 0.0)
        return (F.softplus(-logits[:, :1]) + wrong).sum() if len(target) else logits.sum()


def full(query: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
    """Sum the cross-entropy of n targets among all values but padding and unknown; memory does not grow with n V.

    >>> full(torch.zeros(2, 3), torch.ones(6, 3), None, torch.tensor([2, 5])) / 2  # log 4
    tensor(1.3863)
    """
    return _Full.apply(query, weight, bias, target)  # pyright: ignore


class _Full(torch.autograd.Function):
    """Logits live in chunks: each is turned into its gradients at once, so that backward only scales them."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):
            return _Full._forward(ctx, query.float(), weight.float(), bias, target)

    @staticmethod
    def _forward(ctx: Any, query: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
        is_training = any(ctx.needs_input_grad[:3])
        to_query = torch.empty_like(query) if is_training else None
        to_weight = torch.zeros_like(weight) if is_training else None
        to_bias = torch.zeros_like(weight[:, 0]) if is_training and bias is not None else None
        total = query.new_zeros(())
        rows = max(CHUNK // len(weight), 1)
        for begin in range(0, len(query), rows):
            part, right = query[begin : begin + rows], target[begin : begin + rows, None]
            logits = _logits(part, weight, bias)
            log_sum = logits.logsumexp(dim=1, keepdim=True)
            total += (log_sum - logits.gather(1, right)).sum()
            if to_query is None or to_weight is None:
                continue
            gradient = logits.sub_(log_sum).exp_()
            gradient.scatter_add_(1, right, torch.full_like(log_sum, -1.0))
            torch.mm(gradient, weight, out=to_query[begin : begin + rows])
            to_weight.addmm_(gradient.T, part)
            if to_bias is not None:
                to_bias += gradient.sum(dim=0)
        ctx.save_for_backward(*(t for t in (to_query, to_weight, to_bias) if t is not None))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, weight, *bias = ctx.saved_tensors
        scale = gradients[0]
        return query * scale, weight * scale, bias[0] * scale if bias else None, None


@torch.no_grad()
def missed_ndcg(query: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, k: int = TOP) -> Tensor:
    """Give 1 - NDCG@k per target [n]; ties count half against the right value.

    >>> missed_ndcg(torch.tensor([[0.0, 0, 1, 2]] * 2), torch.eye(4), None, torch.tensor([2, 3]), k=1)
    tensor([1., 0.])
    """
    missed = []
    rows = max(CHUNK // len(weight), 1)
    for part, right in zip(query.split(rows), target.split(rows)):
        logits = _logits(part.float(), weight.float(), bias)
        own = logits.gather(1, right[:, None])
        rank = (logits > own).sum(dim=1) + ((logits == own).sum(dim=1) - 1) / 2
        missed.append(1 - torch.where(rank < k, 1 / torch.log2(rank + 2), 0.0))
    return torch.cat(missed) if missed else query.new_zeros(0)


def _logits(query: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = F.linear(query, weight, bias)
    logits[..., :FIRST] = -math.inf
    return logits
