"""The whole next event at once: gap, type and every other field as a chain, and silence at the end of a log."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from habitus.core.errors import ConfigError
from habitus.models.behavegpt import FIRST, BehaveGPT
from habitus.tokens.batch import EventBatch
from habitus.tokens.gaps import NEVER, GapBins
from habitus.training.objectives import Loss, Objective
from habitus.training.objectives.robust import Robust, RobustConfig

FULL_SOFTMAX = 50_000  # rows up to which every class is scored


class JointEvents(Objective):
    """-log p(gap) - log p(type | gap) - log p(item | ..) - .., and the plain heads beside them; a mean per term.

    Parameters
    ----------
    links, plain
        The model's chain of fields, and the fields of its plain heads; terms `gap`, `type`, .. and `next type`, ..
    counts
        Training rows per id of every such field (n_rows each): for the base rate, and for a robust loss on `type`.
    gaps
        The gap's bins. The last event of a user, where `remaining` is known, adds -log P(gap > remaining) to the gap
        term: without it gaps are learnt too short. `is_censored=False` leaves it out.
    robust
        The loss of the type terms, chained and plain.

    Fields that the next event lacks (padding or unknown) are left out of their term. Errors: `ConfigError` for a field
    of more than 50,000 rows: train that one with the objective `next_event` and sampled classes.

    >>> counts = {"gap": torch.ones(5), "type": torch.ones(4)}
    >>> JointEvents(("gap", "type"), ("type",), counts, GapBins.of([1, 60, 3600])).names
    ('gap', 'type', 'next type')
    """

    def __init__(
        self,
        links: tuple[str, ...],
        plain: tuple[str, ...],
        counts: Mapping[str, Tensor],
        gaps: GapBins,
        robust: RobustConfig | None = None,
        is_censored: bool = True,
    ) -> None:
        super().__init__()
        self.links, self.plain, self.gaps, self.is_censored = links, plain, gaps, is_censored
        self.names = (*links, *(f"next {name}" for name in plain))
        for name in dict.fromkeys((*links, *plain)):  # one order in every process: buffers are sent by their place
            if len(counts[name]) > FULL_SOFTMAX:
                fix = "train this field with the objective next_event and sampled classes"
                raise ConfigError(
                    f"at most {FULL_SOFTMAX:,} values", f"{len(counts[name]):,}", where=f"field {name!r}", fix=fix
                )
        for name in dict.fromkeys((*links, *plain)):  # one order in every process: buffers are sent by their place
            first = NEVER if name == "gap" else FIRST
            self.register_buffer(f"base_{name}", _log_shares(counts[name], first))
        config = robust or RobustConfig()
        self.robust = torch.nn.ModuleDict(
            {f"of {name}": Robust(config, counts["type"].float()) for name in self.names if name.endswith("type")}
        )

    def extra_repr(self) -> str:
        return f"{', '.join(self.names)}, is_censored={self.is_censored}"

    def forward(self, model: BehaveGPT, batch: EventBatch) -> Loss:
        hidden = model(batch)
        u, ids = hidden[batch.is_target], batch.next_ids[batch.is_target]
        terms = []
        for name in self.links:
            logits = model.chain_logits(u, name)
            silence = self._silence(model, batch, hidden) if name == "gap" and self.is_censored else None
            terms.append(self._term(name, name, logits, ids[:, model.shape.column(name)], silence))
            if name != self.links[-1]:
                u = model.chain_tell(u, name, ids)
        plain = hidden[batch.is_target]
        for name in self.plain:
            logits = F.linear(model.query(plain, name), *model.output(name))
            logits = logits.masked_fill(torch.arange(logits.shape[1], device=logits.device) < FIRST, -torch.inf)
            terms.append(self._term(f"next {name}", name, logits, ids[:, model.shape.column(name)], None))
        values, sums, counts, base = (torch.stack(column) for column in zip(*terms))
        return Loss(values.sum(), sums.detach(), counts, base)

    def after_step(self, progress: float) -> None:
        """Update the running losses of the robust terms."""
        for robust in self.robust.values():
            robust.after_step(progress)  # pyright: ignore

    def _silence(self, model: BehaveGPT, batch: EventBatch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """-log P(gap > remaining) of the rows that end a user, by the model and by the base rate."""
        is_end = torch.isfinite(batch.remaining) & (batch.length > 0)
        last = hidden[is_end, batch.length[is_end] - 1]
        seconds = batch.remaining[is_end]
        log_p = model.chain_logits(last, "gap").float().log_softmax(dim=-1)
        base = self.get_buffer("base_gap").expand_as(log_p)
        return -self.gaps.log_survival(log_p, seconds), -self.gaps.log_survival(base, seconds)

    def _term(
        self, term: str, field: str, logits: Tensor, ids: Tensor, silence: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Value to minimise, summed loss, rows, and the base rate's summed loss."""
        is_there = ids >= FIRST
        logits, target = logits[is_there].float(), ids[is_there]
        if f"of {term}" in self.robust:
            found = self.robust[f"of {term}"](logits, target)
            value, ce = found.value, found.ce
        else:
            ce = F.cross_entropy(logits, target, reduction="none")
            value = ce.sum() / max(len(ce), 1)
        base = -self.get_buffer(f"base_{field}")[target].sum()
        total, n = ce.sum(), is_there.sum()
        if silence is not None:
            total, base, n = total + silence[0].sum(), base + silence[1].sum(), n + len(silence[0])
            value = total / n.clamp(min=1)
        return value, total.detach(), n, base


def _log_shares(counts: Tensor, first: int) -> Tensor:
    """Log of the training shares; a value that training lacks counts as half a row; ids below `first` have none."""
    counts = counts.float().clamp(min=0.5)
    counts[:first] = 0
    return (counts / counts.sum()).clamp(min=1e-30).log()
