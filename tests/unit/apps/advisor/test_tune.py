"""Tuning: adapters learn, the base stays, and with adapters off it is the base. The loss has tests of its own."""

from __future__ import annotations

import pytest
import torch

from habitus.apps.advisor.tune import Example, TuneConfig, fit_kto, with_adapters
from habitus.core.errors import TrainingError
from habitus.testing.threads import one_thread
from habitus.training.objectives.kto import Written, log_probability

__all__ = ["one_thread"]


def tiny():
    transformers = pytest.importorskip("transformers", reason="needs the extra [llm]")
    pytest.importorskip("peft", reason="needs the extra [llm]")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def test_only_adapters_learn_and_the_base_stays():
    config = TuneConfig(lr=5e-2, beta=1.0, batch=4, epochs=12, dropout=0.0)
    base = tiny()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    asked = Written.of([[1, 2]], [[10, 12]], max_tokens=64)
    rows = [Example([1, 2], [10 + at % 2, 12], at % 2 == 0) for at in range(8)]
    torch.manual_seed(0)
    model = with_adapters(base, config).eval()
    assert all(("lora_" in name) == part.requires_grad for name, part in model.named_parameters())
    with torch.no_grad():
        was = log_probability(model, asked)
    losses = fit_kto(model, rows, config)
    with torch.no_grad():
        now = log_probability(model, asked)
        with model.disable_adapter():
            off = log_probability(model, asked)
    assert losses[0] == pytest.approx(0.5, abs=1e-4)  # adapters begin as nothing
    assert losses[-1] < 0.48
    assert float(now) > float(was)
    assert float(off) == pytest.approx(float(was), abs=1e-5)
    kept = {name.replace(".base_layer", "").removeprefix("base_model.model."): value
            for name, value in model.state_dict().items() if "lora_" not in name}  # fmt: skip
    assert len(kept) == len(before)
    assert all(torch.equal(kept[name], before[name]) for name in before)


def test_one_row_is_too_few():
    with pytest.raises(TrainingError, match="two rows"):
        fit_kto(object(), [Example([1], [2], True)], TuneConfig())
