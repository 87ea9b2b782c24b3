"""KTO: formulas by hand, only adapters learn, adapters off is the base."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from habitus.core.errors import ConfigError
from habitus.testing.threads import one_thread
from habitus.training.objectives.kto import KTO, Judgements, KTOConfig, Written, log_probability

__all__ = ["one_thread"]


class Table(torch.nn.Module):
    """A language model of one table: the next token follows from the last; the adapter is added to it."""

    def __init__(self, vocabulary: int = 6) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.base = torch.randn(vocabulary, vocabulary, generator=draw)
        self.adapter = torch.nn.Parameter(torch.zeros(vocabulary, vocabulary))
        self.is_on = True

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return SimpleNamespace(logits=(self.base + self.is_on * self.adapter)[input_ids])

    def disable_adapter(self) -> Any:
        table = self

        class Off:
            def __enter__(self) -> None:
                table.is_on = False

            def __exit__(self, *_: object) -> None:
                table.is_on = True

        return Off()


def llama() -> Any:
    transformers = pytest.importorskip("transformers", reason="needs the extra [llm]")
    peft = pytest.importorskip("peft", reason="needs the extra [llm]")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    lora = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM")
    with warnings.catch_warnings():  # of the two libraries to each other
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        return peft.get_peft_model(transformers.LlamaForCausalLM(config), lora)


BATCH = Judgements.of([[1, 2], [3], [2, 4, 1]], [[4], [5, 1], [3, 3]], [True, False, True])


def test_a_row_is_its_prompt_and_its_answer_padded_on_the_right() -> None:
    made = BATCH.written
    assert made.tokens.tolist() == [[1, 2, 4, 0, 0], [3, 5, 1, 0, 0], [2, 4, 1, 3, 3]]
    assert made.is_answer.sum(1).tolist() == [1, 2, 2]
    assert BATCH.others is not None
    assert BATCH.others.tokens[0, :4].tolist() == [1, 2, 5, 1]


def test_a_long_prompt_loses_its_beginning_and_an_answer_nothing() -> None:
    assert Written.of([[1, 2, 3, 4]], [[5, 6]], max_tokens=4).tokens.tolist() == [[3, 4, 5, 6]]
    with pytest.raises(ConfigError, match="below 2 tokens"):
        Written.of([[1]], [[5, 6]], max_tokens=2)


def test_log_probability_is_the_sum_over_the_answer() -> None:
    model = Table()
    p = torch.log_softmax(model.base, 1)
    expected = torch.stack([p[2, 4], p[3, 5] + p[5, 1], p[1, 3] + p[3, 3]])
    torch.testing.assert_close(log_probability(model, BATCH.written), expected)


def test_the_loss_is_the_formula() -> None:
    model, config = Table(), KTOConfig(beta=0.5, desired=2.0, undesired=0.5)
    with torch.no_grad():
        model.adapter.normal_(0, 1.0, generator=torch.Generator().manual_seed(1))
    on, off = torch.log_softmax(model.base + model.adapter.detach(), 1), torch.log_softmax(model.base, 1)
    r = 0.5 * (on - off)
    own = torch.stack([r[2, 4], r[3, 5] + r[5, 1], r[1, 3] + r[3, 3]])
    others = torch.stack([r[2, 5] + r[5, 1], r[3, 3] + r[3, 3], r[1, 4]])
    z = others.mean().clamp(min=0)
    each = torch.stack([2 * torch.sigmoid(z - own[0]), 0.5 * torch.sigmoid(own[1] - z), 2 * torch.sigmoid(z - own[2])])
    found = KTO(config)(model, BATCH)
    torch.testing.assert_close(found.value, each.mean())
    assert found.counts.tolist() == [2, 1]


def test_z_is_never_below_0_and_has_no_gradient() -> None:
    model = Table()
    with torch.no_grad():  # answers that belong to others are less likely than at the start: z would be negative
        for row, column in ((2, 5), (3, 3), (1, 4)):
            model.adapter[row, column] = -5.0
    loss = KTO(KTOConfig.parse({}))(model, BATCH)
    with torch.no_grad():
        own = KTO(KTOConfig.parse({})).reward(model, BATCH.written)
        expected = (1 - torch.sigmoid(torch.where(BATCH.is_desired, own, -own))).mean()
    torch.testing.assert_close(loss.value.detach(), expected)
    alone = Judgements(BATCH.written, BATCH.is_desired)  # z = 0 either way: the same gradient
    wanted = torch.autograd.grad(KTO(KTOConfig.parse({}))(model, alone).value, model.adapter)[0]
    torch.testing.assert_close(torch.autograd.grad(loss.value, model.adapter)[0], wanted)


def test_only_adapters_get_gradients_the_loss_falls_and_the_base_stays() -> None:
    model, batch = llama(), Judgements.of([[1, 2, 3], [4, 5]], [[7, 8], [9, 10]], [True, False])
    objective = KTO(KTOConfig.parse({"beta": 1.0}))
    with torch.no_grad(), model.disable_adapter():
        before = log_probability(model, batch.written)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(25):
        loss = objective(model, batch).value
        optimiser.zero_grad()
        loss.backward()
        assert all((p.grad is not None) == ("lora_" in name) for name, p in model.named_parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(0.5)
    assert losses[-1] < 0.4
    with torch.no_grad():
        after = log_probability(model, batch.written) - before
        with model.disable_adapter():
            torch.testing.assert_close(log_probability(model, batch.written), before, rtol=0, atol=0)
    assert after[0] > 0 > after[1]


def test_a_model_without_adapters_is_refused() -> None:
    with pytest.raises(ConfigError, match="a model with adapters"):
        KTO(KTOConfig.parse({}))(torch.nn.Linear(1, 1), BATCH)
