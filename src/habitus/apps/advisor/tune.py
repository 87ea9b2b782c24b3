"""Adapters of a language model, tuned by KTO on what customers did: wanted answers and unwanted ones, one by one.

Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", arXiv 2402.01306; the settings are those
of FLARKO (arXiv 2510.15993). The reference model is the same one with its adapters off. Small and plain: one row a step of
memory, no quantisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from habitus.apps.advisor.prompt import messages
from habitus.apps.advisor.rank import active_customers
from habitus.apps.advisor.write import LocalModel, encoded
from habitus.core.atomic import new_folder, write_json
from habitus.core.config import Config
from habitus.core.errors import TrainingError, require
from habitus.core.seeds import generator

if TYPE_CHECKING:
    from torch import Tensor

    from habitus.apps.advisor.advise import Advisor

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class TuneConfig(Config):
    """How adapters are tuned; two rows per case: up to `n_answer` good assets, and as many others at random.

    >>> TuneConfig().beta
    0.1
    """

    rank: int = Field(16, gt=0)
    alpha: int = Field(64, gt=0)
    dropout: float = Field(0.075, ge=0, lt=1)
    beta: float = Field(0.1, gt=0)
    lr: float = Field(5e-6, gt=0)
    batch: int = Field(16, gt=1)
    epochs: int = Field(3, gt=0)
    n_customers: int = Field(20, gt=0)
    n_answer: int = Field(20, gt=0)
    max_length: int = Field(8192, gt=8)
    weight_desired: float = Field(1.0, ge=0)
    weight_undesired: float = Field(1.0, ge=0)
    seed: int = 0


def kto_loss(
    policy: Tensor, reference: Tensor, policy_mismatched: Tensor, reference_mismatched: Tensor, is_desired: Tensor,
    *, beta: float = 0.1, weight_desired: float = 1.0, weight_undesired: float = 1.0,
) -> Tensor:  # fmt: skip
    """Give the loss of a batch from log probabilities of whole answers, each float [B].

    r = beta (policy - reference); z = max(0, mean of r over mismatched pairs of prompt and answer), without gradient;
    w (1 - sigmoid(r - z)) for desired answers, w (1 - sigmoid(z - r)) for others; the mean over the batch.

    >>> import torch
    >>> zero = torch.zeros(2)
    >>> float(kto_loss(zero, zero, zero, zero, torch.tensor([True, False])))
    0.5
    """
    import torch

    r = beta * (policy - reference)
    z = (beta * (policy_mismatched - reference_mismatched)).mean().clamp(min=0).detach()
    good, bad = 1 - torch.sigmoid(r - z), 1 - torch.sigmoid(z - r)
    return torch.where(is_desired, weight_desired * good, weight_undesired * bad).mean()


@dataclass(frozen=True)
class Example:
    """One row: ids of prompt and answer, and whether the answer is wanted."""

    prompt: list[int]
    answer: list[int]
    is_desired: bool


def with_adapters(model: Any, config: TuneConfig) -> Any:
    """Give the model with LoRA adapters; only they take gradients."""
    peft: Any = require("peft", "llm")
    present = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    names = [name for name in TARGETS if name in present]
    if not names:
        raise TrainingError(f"layers called {', '.join(TARGETS)}", "none of them", where="the language model")
    lora = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=names, task_type="CAUSAL_LM"
    )
    return peft.get_peft_model(model, lora)


def log_probability(model: Any, prompts: list[list[int]], answers: list[list[int]]) -> Tensor:
    """Give the log probability of each answer after its prompt: float [B]."""
    import torch

    size = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.zeros(len(prompts), size, dtype=torch.long)
    mask = torch.zeros(len(prompts), size, dtype=torch.long)
    is_answer = torch.zeros(len(prompts), size, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        n = len(prompt) + len(answer)
        ids[row, :n] = torch.tensor(prompt + answer)
        mask[row, :n] = 1
        is_answer[row, len(prompt) : n] = True
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    found = torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])[..., 0]
    return (found * is_answer[:, 1:]).sum(1)


def fit_kto(model: Any, examples: list[Example], config: TuneConfig) -> list[float]:
    """Tune the adapters of a model in place; give the loss of each step. The mismatched answer is the next row's.

    Errors: `TrainingError` for fewer than two rows, or a loss that is not finite.
    """
    import torch

    if len(examples) < 2:
        raise TrainingError("two rows or more", str(len(examples)), where="KTO")
    tuned = [part for part in model.parameters() if part.requires_grad]
    optimiser = torch.optim.AdamW(tuned, lr=config.lr)
    batch = min(config.batch, len(examples))
    steps = config.epochs * (len(examples) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    losses: list[float] = []
    for epoch in range(config.epochs):
        order = generator(config.seed, "kto", epoch).permutation(len(examples))
        for start in range(0, len(order) - batch + 1, batch):
            rows = [examples[at] for at in order[start : start + batch]]
            loss = _loss(model, rows, config)
            if not bool(torch.isfinite(loss)):
                raise TrainingError("a finite loss", str(float(loss)), where=f"step {len(losses)}", fix="a smaller lr")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
    return losses


def _loss(model: Any, rows: list[Example], config: TuneConfig) -> Tensor:
    import torch

    prompts, answers = [row.prompt for row in rows], [row.answer for row in rows]
    shifted = answers[1:] + answers[:1]
    with torch.no_grad():
        other = log_probability(model, prompts, shifted)
        with model.disable_adapter():
            reference, other_reference = (
                log_probability(model, prompts, answers),
                log_probability(model, prompts, shifted),
            )
    desired = torch.tensor([row.is_desired for row in rows])
    return kto_loss(
        log_probability(model, prompts, answers), reference, other, other_reference, desired, beta=config.beta,
        weight_desired=config.weight_desired, weight_undesired=config.weight_undesired,
    )  # fmt: skip


def examples_of(advisor: Advisor, tokenizer: Any, config: TuneConfig) -> list[Example]:
    """Make rows from the training dates of a run: per customer with a good buy, its good assets and as many others."""
    found: list[Example] = []
    market = advisor.run.market
    for day in advisor.run.recipe.train.days():
        view = market.view(day)
        draw = generator(config.seed, "kto cases", day)
        people = active_customers(view)
        good = view.outcome(people).good
        some = np.sort(draw.permutation(np.flatnonzero(good.any(1)))[: config.n_customers])
        for at in some:
            wanted = np.flatnonzero(good[at])[: config.n_answer]
            rest = draw.permutation(np.flatnonzero(~good[at] & view.is_open))[: max(len(wanted), 1)]
            subgraph = advisor.subgraph(str(market.source.customer_ids[people[at]]), day)
            prompt = encoded(tokenizer, messages(subgraph, k=len(wanted)))[: config.max_length]
            for codes, is_desired in ((wanted, True), (rest, False)):
                text = "".join(f"\n- {market.source.isins[code]}" for code in codes)
                found.append(Example(prompt, list(tokenizer(text, add_special_tokens=False)["input_ids"]), is_desired))
    return found


def tune_adapters(
    advisor: Advisor, folder: str | Path, out: str | Path, config: TuneConfig, say: Callable[[str], Any] = print
) -> list[float]:
    """Tune adapters of the model in `folder` into a new folder `out`; give the loss of each step.

    Errors: `ExtraError` without [llm], `ArtifactError`, `TrainingError`, `DiskError` when `out` exists.
    """
    import torch

    tokenizer, base = LocalModel(Path(folder)).load()
    torch.manual_seed(config.seed)
    model = with_adapters(base, config).train()
    examples = examples_of(advisor, tokenizer, config)
    say(f"{len(examples)} rows")
    losses = fit_kto(model, examples, config)
    with new_folder(out) as beside:
        model.save_pretrained(str(beside))
        write_json(beside / "tune.json", {"config": config.model_dump(), "losses": losses, "rows": len(examples)})
    return losses
