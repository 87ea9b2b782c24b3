"""Large tables by row: gradients and updates only for the rows that a step has read.

With a million items, a dense gradient of the table and AdamW over all of it cost some hundred times the step itself. A
table that is marked and read by `models.layers.catalogue.lookup` has a sparse gradient instead; its rows are updated by
Adam as if only they existed (moments of other rows stand still, no decay), and the rest of the model by AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from habitus.models.layers.catalogue import BY_ROW


def mark_tables(model: nn.Module, n_rows: int) -> None:
    """Mark the matrices of at least `n_rows` rows; 0 marks none. Where the loss needs all rows it changes nothing."""
    for weight in model.parameters():
        setattr(weight, BY_ROW, bool(n_rows) and weight.ndim == 2 and len(weight) >= n_rows)


class RowAdamW(torch.optim.AdamW):
    """AdamW that updates parameters with a sparse gradient by row.

    >>> table = nn.Parameter(torch.zeros(4, 1))
    >>> torch.nn.functional.embedding(torch.tensor([2]), table, sparse=True).sum().backward()
    >>> RowAdamW([table], lr=0.5).step()
    >>> table.flatten().tolist()
    [0.0, 0.0, -0.5, 0.0]
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        """Take one step; sparse gradients are used up."""
        answer = None
        if closure is not None:
            with torch.enable_grad():
                answer = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None and weight.grad.is_sparse:
                    self._step_rows(weight, group)
                    weight.grad = None
        super().step()
        return answer

    def _step_rows(self, weight: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[weight], weight.grad.coalesce()  # pyright: ignore
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        (one, two), step = group["betas"], float(state["step"])
        rows, values = gradient.indices()[0], gradient.values()
        mean = state["exp_avg"][rows].lerp_(values, 1 - one)
        square = state["exp_avg_sq"][rows].lerp_(values.square(), 1 - two)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        size = (square / (1 - two**step)).sqrt_().add_(group["eps"])
        weight.index_add_(0, rows, mean / (1 - one**step) / size, alpha=-group["lr"])


@torch.no_grad()
def share_rows(weights: Iterable[Tensor]) -> None:
    """Average sparse gradients over all processes: only the rows that a step has read travel.

    DDP itself leaves these weights out (`unshared`), for it knows sparse gradients of modules alone.
    """
    n = dist.get_world_size()
    for weight in weights:
        own = _sparse(weight)
        if own is None:  # the loss reads every row
            dist.all_reduce(weight.grad)
            weight.grad.div_(n)  # pyright: ignore
            continue
        size = torch.tensor([own._nnz()], device=weight.device)
        sizes = [torch.zeros_like(size) for _ in range(n)]
        dist.all_gather(sizes, size)
        most = int(torch.cat(sizes).max())
        rows = torch.zeros(most, dtype=torch.int64, device=weight.device)
        values = torch.zeros(most, weight.shape[1], dtype=weight.dtype, device=weight.device)
        rows[: own._nnz()], values[: own._nnz()] = own.indices()[0], own.values()
        every_row, every_value = ([torch.zeros_like(part) for _ in range(n)] for part in (rows, values))
        dist.all_gather(every_row, rows)
        dist.all_gather(every_value, values)
        kept = [int(size) for size in sizes]
        index = torch.cat([part[:k] for part, k in zip(every_row, kept)])[None]
        value = torch.cat([part[:k] for part, k in zip(every_value, kept)]) / n
        weight.grad = torch.sparse_coo_tensor(index, value, weight.shape).coalesce()


def _sparse(weight: Tensor) -> Tensor | None:
    """Give the sparse gradient of a weight, without rows where it has none; None for a dense one."""
    if weight.grad is None:
        none = torch.zeros(1, 0, dtype=torch.int64, device=weight.device)
        return torch.sparse_coo_tensor(none, weight.new_zeros(0, weight.shape[1]), weight.shape).coalesce()
    return weight.grad.coalesce() if weight.grad.is_sparse else None


def unshared(module: nn.Module) -> list[str]:
    """Name the weights whose gradients DDP must leave to `share_rows`."""
    return [name for name, weight in module.named_parameters() if getattr(weight, BY_ROW, False)]


@torch.no_grad()
def clip_norm(weights: Iterable[Tensor], limit: float) -> Tensor:
    """Scale gradients, sparse ones too, so that their norm together is at most `limit`; give the norm before."""
    weights = [weight for weight in weights if weight.grad is not None]
    sparse = [weight for weight in weights if weight.grad.is_sparse]  # pyright: ignore
    if not sparse:
        return nn.utils.clip_grad_norm_(weights, limit)
    for weight in sparse:
        weight.grad = weight.grad.coalesce()  # pyright: ignore
    gradients: list[Any] = [weight.grad for weight in weights]
    parts: list[Tensor] = [each.values() if each.is_sparse else each for each in gradients]
    norm = torch.stack([part.norm() for part in parts]).norm()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for part in parts:
        part.mul_(scale)
    return norm
