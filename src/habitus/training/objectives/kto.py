"""Answers marked good or bad, one by one: a language model moves towards the good, measured from where it began.

Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306), as FLARKO (arXiv 2510.15993) tunes with it:
r = beta (log p(answer | prompt) - log p_0(answer | prompt)), p_0 the model with its adapters off; z = the mean r of
answers put to prompts they do not belong to, at least 0, without gradient. The loss of a good answer is
w (1 - sigmoid(r - z)), that of a bad one w (1 - sigmoid(z - r)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.core.errors import ConfigError
from habitus.training.objectives import Loss, Objective


class KTOConfig(Config):
    """`beta` is how far the model may leave its start; the weights are those of good and bad answers.

    >>> KTOConfig().beta
    0.1
    """

    beta: float = Field(0.1, gt=0)
    desired: float = Field(1.0, ge=0)
    undesired: float = Field(1.0, ge=0)


@dataclass(frozen=True)
class Written:
    """Prompts followed by answers. tokens int64 [B, T]; is_token, is_answer bool [B, T], False on padding."""

    tokens: Tensor
    is_token: Tensor
    is_answer: Tensor

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, max_tokens: int, pad: int = 0
    ) -> Written:
        """Join prompts and answers, padded on the right. A prompt too long loses its beginning, an answer nothing.

        Errors: `ConfigError` where an answer leaves no room for a token of its prompt, or either is empty.

        >>> Written.of([[5, 6, 7]], [[8]], max_tokens=3).tokens
        tensor([[6, 7, 8]])
        """
        rows = []
        for prompt, answer in zip(prompts, answers, strict=True):
            if not prompt or not answer or len(answer) >= max_tokens:
                found = f"prompt of {len(prompt)}, answer of {len(answer)} tokens"
                raise ConfigError(f"a prompt, and an answer below {max_tokens} tokens", found, where="rows of KTO")
            rows.append((*prompt[len(answer) - max_tokens :], *answer))
        width = max(len(row) for row in rows)
        n = torch.tensor([len(row) for row in rows])[:, None]
        n_answer = torch.tensor([len(answer) for answer in answers])[:, None]
        at = torch.arange(width)
        tokens = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
        return cls(tokens, at < n, (at < n) & (at >= n - n_answer))

    def to(self, device: torch.device | str) -> Written:
        """Give the same on a device."""
        return Written(self.tokens.to(device), self.is_token.to(device), self.is_answer.to(device))


@dataclass(frozen=True)
class Judgements:
    """A batch: what was written, whether it is good (bool [B]), and the same answers put to others' prompts."""

    written: Written
    is_desired: Tensor
    others: Written | None = None

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        is_desired: Sequence[bool],
        *,
        max_tokens: int = 100_000,
        pad: int = 0,
    ) -> Judgements:
        """Make a batch from token ids; each prompt gets the next row's answer in `others`. One row has none: z = 0."""
        pairs = None
        if len(answers) > 1:
            pairs = Written.of(prompts, [*answers[1:], answers[0]], max_tokens=max_tokens, pad=pad)
        written = Written.of(prompts, answers, max_tokens=max_tokens, pad=pad)
        return cls(written, torch.tensor(list(is_desired), dtype=torch.bool), pairs)


def log_probability(model: nn.Module, written: Written) -> Tensor:
    """Give log p(answer | prompt), the sum over the answer's tokens: float32 [B]."""
    logits = model(input_ids=written.tokens, attention_mask=written.is_token.long()).logits[:, :-1]
    wanted, counts = written.tokens[:, 1:], written.is_answer[:, 1:]
    row, at = counts.nonzero(as_tuple=True)  # the vocabulary is wide: only answers go through the softmax
    each = torch.log_softmax(logits[row, at].float(), dim=-1).gather(1, wanted[row, at][:, None])[:, 0]
    return torch.zeros(len(counts), device=each.device).index_add(0, row, each)


class KTO(Objective):
    """The loss of a batch of `Judgements` for a causal language model with adapters (extra [llm]).

    The model must give `.logits` and `disable_adapter()`, as those of PEFT do. It owns no parameters. Dropout of the
    adapters is left on in the mode the caller chose.

    Errors: `ConfigError` for a model without adapters.

    >>> KTO(KTOConfig()).names
    ('desired', 'undesired')
    """

    names = ("desired", "undesired")
    is_by_batch = True  # z is the batch's

    def __init__(self, config: KTOConfig) -> None:
        super().__init__()
        self.config = config

    def reward(self, model: Any, written: Written) -> Tensor:
        """Give r [B]; gradients reach the adapters only."""
        if not hasattr(model, "disable_adapter"):
            fix = "wrap it by peft.get_peft_model"
            raise ConfigError("a model with adapters", type(model).__name__, where="KTO", fix=fix)
        with torch.no_grad(), model.disable_adapter():
            start = log_probability(model, written)
        return self.config.beta * (log_probability(model, written) - start)

    def forward(self, model: nn.Module, batch: Judgements) -> Loss:
        """Give the loss: the mean over answers, weighted."""
        z = torch.zeros((), device=batch.written.tokens.device)
        if batch.others is not None:
            with torch.no_grad():
                z = self.reward(model, batch.others).mean().clamp(min=0)
        gap = self.reward(model, batch.written) - z
        is_good = batch.is_desired
        each = 1 - torch.sigmoid(torch.where(is_good, gap, -gap))
        weight = torch.where(is_good, self.config.desired, self.config.undesired)
        sums = torch.stack([each[is_good].sum(), each[~is_good].sum()]).detach()
        return Loss((weight * each).mean(), sums, torch.stack([is_good.sum(), (~is_good).sum()]))
