"""The tuner is plain LoRA where weights are equal, and a mixture where they are not."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from habitus.apps.ilora.mix import PROJECTIONS, MixConfig, MixedLinear, add_mixed_lora, load_mixed_lora, mixing
from habitus.core.errors import ConfigError, TrainingError

from .conftest import FAMILIES, hushed, tiny_causal

IDS = torch.arange(24).view(3, 8) % 60


def stock(base, config: LoraConfig):
    with hushed():
        return get_peft_model(base, config)


def pair(family: str):
    """The same base with our tuner and with PEFT's LoRA, the same factors in both."""
    base = tiny_causal(family, 64)
    ours = add_mixed_lora(copy.deepcopy(base), MixConfig(r=8, alpha=32.0), seed=3)
    plain = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, target_modules=list(PROJECTIONS))
    theirs = stock(copy.deepcopy(base), plain)
    draw = torch.Generator().manual_seed(4)
    named = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, p in ours.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=draw) * 0.1)
                named[name].copy_(p)
    return ours, theirs


def loss(model) -> torch.Tensor:
    return model(input_ids=IDS, labels=IDS).loss


@pytest.mark.parametrize("family", FAMILIES)
def test_a_uniform_gate_is_plain_lora_in_outputs_and_gradients(family: str):
    ours, theirs = pair(family)
    with mixing(ours, torch.full((3, 4), 0.25)):
        ours_loss = loss(ours)
        ours_loss.backward()
        logits = ours(input_ids=IDS).logits
    theirs_loss = loss(theirs)
    theirs_loss.backward()
    assert torch.equal(logits, theirs(input_ids=IDS).logits)
    assert torch.equal(ours_loss, theirs_loss)
    named, n = dict(theirs.named_parameters()), 0
    for name, p in ours.named_parameters():
        if "lora_" in name:
            assert p.grad is not None
            assert torch.equal(p.grad, named[name].grad), name
            n += 1
    assert n == 2 * 2 * 7


def test_losses_of_ten_steps_are_those_of_plain_lora():
    ours, theirs = pair("llama")
    steppers = [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-2) for m in (ours, theirs)]
    seen = []
    for _ in range(10):
        with mixing(ours, torch.full((3, 4), 0.25)):
            one = loss(ours)
            one.backward()
        other = loss(theirs)
        other.backward()
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        seen.append((one.item(), other.item()))
    assert all(one == other for one, other in seen)
    assert seen[-1][0] < seen[0][0]


def test_one_expert_alone_is_lora_of_its_rank_with_the_released_scale():
    ours, _ = pair("llama")
    alone = torch.zeros(3, 4)
    alone[:, 2] = 1.0
    with mixing(ours, alone), torch.no_grad():
        logits = ours(input_ids=IDS).logits
    small = stock(
        tiny_causal("llama", 64),
        LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=32, target_modules=list(PROJECTIONS)),
    )
    whole = dict(ours.named_parameters())
    with torch.no_grad():
        for name, p in small.named_parameters():
            if "lora_A" in name:
                p.copy_(whole[name][4:6])
            elif "lora_B" in name:
                p.copy_(whole[name][:, 4:6])
        assert small.base_model.model.model.layers[0].mlp.up_proj.scaling["default"] == 16
        torch.testing.assert_close(logits, small(input_ids=IDS).logits, atol=1e-5, rtol=1e-5)


def test_rows_do_not_depend_on_their_batch():
    ours, _ = pair("llama")
    weights = torch.softmax(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    with torch.no_grad():
        with mixing(ours, weights):
            whole = ours(input_ids=IDS).logits
        for i in range(3):
            with mixing(ours, weights[i : i + 1]):
                alone = ours(input_ids=IDS[i : i + 1]).logits[0]
            torch.testing.assert_close(alone, whole[i], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(whole[0], whole[1])


def test_gradients_of_weights_outlive_recomputation():
    found = []
    for is_checkpointed in (False, True):
        ours, _ = pair("llama")
        if is_checkpointed:
            ours.base_model.model.activation_checkpointing_enable({"use_reentrant": False})
            ours.train()
        weights = torch.full((3, 4), 0.25, requires_grad=True)
        with mixing(ours, weights):
            loss(ours).backward()
        found.append(weights.grad)
    assert found[0].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1])


def test_stock_peft_opens_the_folder_as_the_uniform_gate(tmp_path: Path):
    ours, _ = pair("llama")
    ours.save_pretrained(str(tmp_path), save_embedding_layers=False)
    with hushed():
        theirs = PeftModel.from_pretrained(tiny_causal("llama", 64), str(tmp_path))
    back = load_mixed_lora(tiny_causal("llama", 64), tmp_path)
    assert sum(isinstance(m, MixedLinear) for m in back.modules()) == 14
    with torch.no_grad(), mixing(ours, torch.full((3, 4), 0.25)), mixing(back, torch.full((3, 4), 0.25)):
        own = ours(input_ids=IDS).logits
        assert torch.equal(own, theirs(input_ids=IDS).logits)
        assert torch.equal(own, back(input_ids=IDS).logits)


def test_weights_that_are_missing_or_of_other_rows_are_errors():
    ours, _ = pair("llama")
    with pytest.raises(TrainingError, match="weights of experts"):
        ours(input_ids=IDS)
    with mixing(ours, torch.full((2, 4), 0.25)), pytest.raises(TrainingError, match="one row of weights per row"):
        ours(input_ids=IDS)
    with pytest.raises(ConfigError, match="mixed LoRA layers"), mixing(torch.nn.Linear(2, 2), torch.ones(1, 4)):
        pass


def test_a_mixture_does_not_merge_into_the_model():
    ours, _ = pair("llama")
    with pytest.raises(ConfigError, match="uniform gate"):
        ours.merge_adapter()


def test_targets_and_experts_are_checked():
    with pytest.raises(ConfigError, match="did you mean 'q_proj'"):
        add_mixed_lora(tiny_causal("llama", 64), MixConfig(targets=("q_porj",)))
    with pytest.raises(ConfigError, match="n_experts that divide"):
        add_mixed_lora(tiny_causal("llama", 64), MixConfig(r=8, n_experts=3))
    only = add_mixed_lora(tiny_causal("llama", 64), MixConfig(targets=("q_proj",)))
    assert sum(isinstance(m, MixedLinear) for m in only.modules()) == 2


def test_the_seed_draws_the_factors_and_nothing_else():
    before = torch.random.get_rng_state()
    one, same, other = (add_mixed_lora(tiny_causal("llama", 64), MixConfig(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    a = [
        dict(m.named_parameters())["base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight"]
        for m in (one, same, other)
    ]
    assert torch.equal(a[0], a[1])
    assert not np.allclose(a[0].detach(), a[2].detach())
