"""Adapters by name: saved, loaded, told apart, tied to what they were trained with."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from habitus.apps.ilora.answer import answer
from habitus.apps.ilora.gate import GateConfig
from habitus.apps.ilora.model import IloraConfig, InstanceLora, open_causal, read_ilora
from habitus.apps.ilora.prepare import Prepared
from habitus.core.errors import ArtifactError, ConfigError, ExtraError, FingerprintError

from .conftest import hushed, stir, tiny_causal
from .test_answer import asked


def fresh(like: InstanceLora) -> InstanceLora:
    causal = tiny_causal("llama", len(like.prompts.tokenizer))
    return InstanceLora(causal, like.prompts, like.vectors, like.is_known.numpy(), like.fingerprints)


@pytest.mark.parametrize("gate", ["linear", "resnet", "random", "uniform"])
def test_saved_and_loaded_adapters_give_equal_answers(prepared: Prepared, make_model, tmp_path: Path, gate: str):
    model, question = make_model(gate, seed=5), asked(prepared)
    model.save(tmp_path / "adapter", facts={"arm": gate})
    back = fresh(model)
    assert back.load(tmp_path / "adapter", "again") == {"arm": gate}
    one, other = (answer(m, *question) for m in (model, back))
    assert (one.log_p == other.log_p).all()
    assert one.text == other.text
    assert (one.weights == other.weights).all()


def test_several_adapters_live_side_by_side(prepared: Prepared, make_model, tmp_path: Path, capsys):
    model, question = make_model(), asked(prepared)
    first = answer(model, *question, writes=False)
    model.add("second", IloraConfig(gate=GateConfig(name="resnet"), seed=9), torch.randn(40, 16))
    assert model.active == "second"
    base, untouched = (answer(model, *question, writes=False, is_hybrid=False, is_base=b) for b in (True, False))
    np.testing.assert_allclose(base.log_p, untouched.log_p, atol=1e-6)  # B is zero: nothing has changed yet
    text = model.print_trainable_parameters()
    assert "90,772 gate" in text
    assert text in capsys.readouterr().out
    stir(model)
    second = answer(model, *question, writes=False)
    model.save(tmp_path / "second")
    model.set_adapter("default")
    assert (answer(model, *question, writes=False).log_p == first.log_p).all()
    assert "68 gate" in model.print_trainable_parameters()
    back = fresh(model)
    back.load(tmp_path / "second")
    assert (answer(back, *question, writes=False).log_p == second.log_p).all()


def test_the_folder_holds_no_table_of_the_base(prepared: Prepared, make_model, tmp_path: Path):
    from safetensors.torch import load_file

    model = make_model("uniform")
    model.save(tmp_path / "adapter")
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(names) == 28
    assert all("lora_" in name for name in names)
    with hushed():
        stock = PeftModel.from_pretrained(tiny_causal("llama", len(model.prompts.tokenizer)), str(tmp_path / "adapter"))
    candidates, history, states, keys = asked(prepared)
    batch = model.prompts.batch(history, candidates.items)
    with torch.no_grad():
        own = model(batch, model.weights(states, keys), is_hybrid=False, keep=1).logits
        mask = torch.from_numpy(batch.is_token)
        given = {"inputs_embeds": model.embed(batch, is_hybrid=False), "attention_mask": mask.long()}
        position = (mask.long().cumsum(1) - 1).clamp(min=0)
        theirs = stock(**given, position_ids=position, logits_to_keep=1).logits
    assert torch.equal(own, theirs)
    text = (tmp_path / "adapter" / "README.md").read_text("utf-8")
    assert "uniform" in text


def test_an_adapter_of_another_base_is_refused(make_model, tmp_path: Path):
    model = make_model()
    model.save(tmp_path / "adapter")
    other = fresh(model)
    other.fingerprints["base"] = "another"
    with pytest.raises(FingerprintError, match="train again"):
        other.load(tmp_path / "adapter")
    with pytest.raises(ArtifactError, match=r"ilora\.json"):
        read_ilora(tmp_path)
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ArtifactError, match="fits the model"):
        fresh(model).load(tmp_path / "adapter")


def test_names_are_checked(make_model):
    model = make_model()
    for name, wrong in (("default", "a new name"), ("lora", "no part of"), ("a", "no part of")):
        with pytest.raises(ConfigError, match=wrong):
            model.add(name, IloraConfig())
    with pytest.raises(ConfigError, match="an adapter out of: default"):
        model.set_adapter("other")
    with pytest.raises(ConfigError, match="an adapter"):
        fresh(model).current  # noqa: B018


def test_only_a_uniform_gate_merges(make_model):
    with pytest.raises(ConfigError, match="uniform gate"):
        make_model("linear").peft.merge_adapter()
    model = make_model("uniform")
    model.peft.merge_adapter()


def test_training_touches_neither_base_nor_item_vectors(prepared: Prepared, make_model):
    model = make_model()
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names
    assert all("lora_" in name or name.startswith("extras.") for name in names)
    assert not model.vectors.requires_grad
    assert sum(p.numel() for g in model.trained().values() for p in g) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )


def test_a_folder_without_model_or_tokenizer_says_what_to_do(tmp_path: Path, make_model):
    with pytest.raises(ArtifactError, match="habitus lm pretrain"):
        open_causal(tmp_path)
    make_model().causal.save_pretrained(tmp_path / "lm")
    with pytest.raises(ArtifactError, match=r"copy tokenizer\.json"):
        open_causal(tmp_path / "lm")


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_a_folder_of_any_family_opens(tmp_path: Path, make_model, family: str):
    model = make_model(family=family)
    tiny_causal(family, len(model.prompts.tokenizer)).save_pretrained(tmp_path / "lm")
    model.prompts.tokenizer.save_pretrained(tmp_path / "lm")
    opened, tokenizer, mark = open_causal(tmp_path / "lm")
    assert type(opened).__name__.lower().startswith(family)
    assert tokenizer("ember")["input_ids"] == model.prompts.tokenizer("ember")["input_ids"]
    assert len(mark) == 64


def test_without_the_extra_the_command_to_install_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ExtraError, match=r"habitus\[llm\]"):
        open_causal(tmp_path)
