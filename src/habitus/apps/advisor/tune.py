"""Adapters of a language model, tuned by KTO on what customers did: wanted answers and unwanted ones, one by one.

Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", arXiv 2402.01306; the settings are those
of FLARKO (arXiv 2510.15993). The reference model is the same one with its adapters off. Small and plain: no
quantisation, whole batches in memory.
"""

from __future__ import annotations

import warnings
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
    with warnings.catch_warnings():  # peft asks transformers by a name that is on its way out
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(model, lora)


def fit_kto(model: Any, examples: list[Example], config: TuneConfig) -> list[float]:
    """Tune the adapters of a model in place; give the loss of each step. The mismatched answer is the next row's.

    Errors: `TrainingError` for fewer than two rows, or a loss that is not finite.
    """
    import torch

    from habitus.training.objectives.kto import KTO, Judgements, KTOConfig

    if len(examples) < 2:
        raise TrainingError("two rows or more", str(len(examples)), where="KTO")
    weights = {"desired": config.weight_desired, "undesired": config.weight_undesired}
    objective = KTO(KTOConfig.parse({"beta": config.beta} | weights))
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
            prompts, answers = [row.prompt for row in rows], [row.answer for row in rows]
            loss = objective(model, Judgements.of(prompts, answers, [row.is_desired for row in rows])).value
            if not bool(torch.isfinite(loss)):
                raise TrainingError("a finite loss", str(float(loss)), where=f"step {len(losses)}", fix="a smaller lr")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
    return losses


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
            prompt = encoded(tokenizer, messages(subgraph, k=len(wanted)))
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
    made = examples_of(advisor, tokenizer, config)
    # a graph cut by tokens would be no graph: such a row is left out whole
    examples = [row for row in made if len(row.prompt) + len(row.answer) <= config.max_length]
    say(f"{len(examples)} rows; left out, longer than {config.max_length:,} tokens: {len(made) - len(examples)}")
    losses = fit_kto(model, examples, config)
    with new_folder(out) as beside:
        model.save_pretrained(str(beside))
        write_json(beside / "tune.json", {"config": config.model_dump(), "losses": losses, "rows": len(examples)})
    return losses
