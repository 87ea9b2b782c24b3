"""Tuning: adapters learn, the base stays, and with adapters off it is the base. The loss has tests of its own."""

from __future__ import annotations

import pytest
import torch

from habitus.apps.advisor.advise import Advisor
from habitus.apps.advisor.rank import RankerConfig, fit_ranker
from habitus.apps.advisor.run import AdvisorRecipe, Dates, Run
from habitus.apps.advisor.select import RetrievalConfig
from habitus.apps.advisor.tune import Example, TuneConfig, fit_kto, tune_adapters, with_adapters
from habitus.apps.advisor.write import LocalModel
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


def bytes_folder(folder):
    """A folder with a tiny random model that reads bytes, as `--llm FOLDER` wants it."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [llm]")
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra [llm]")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    letters = {letter: place for place, letter in enumerate([*alphabet, "<end>"])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=letters, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(letters), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=8192,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_model_in_a_folder_is_tuned_and_answers(small, tmp_path):
    folder = bytes_folder(tmp_path / "lm")
    days = [small.view.day - back for back in (560, 500, 440)]
    caps = RetrievalConfig(n_assets=3, n_transactions=2, max_tokens=900, n_summaries=2, per_asset=1)
    ranker = fit_ranker(
        small.market, days, days[-1] + 30, days, RankerConfig(n_customers=120, rounds=10, min_leaf=5), caps
    )
    recipe = AdvisorRecipe(name="x", train=Dates(first="2021-01-04", every=7, n=2))
    advisor = Advisor(Run(tmp_path, recipe, small.folder, small.graph, small.market, {"multi": ranker}))
    config = TuneConfig(n_customers=2, epochs=1, batch=2, rank=2, dropout=0.0)
    losses = tune_adapters(advisor, folder, tmp_path / "adapters", config, say=lambda text: None)
    assert len(losses) == 4
    assert losses[0] == pytest.approx(0.5, abs=1e-3)
    writer = LocalModel(folder, tmp_path / "adapters", max_tokens=8)
    answer, _ = advisor.advise(str(small.source.customer_ids[3]), small.view.day, k=3, writer=writer)
    assert answer.is_unparsable  # a random model names nothing, and stays in the count
    assert answer.text == advisor.advise(str(small.source.customer_ids[3]), small.view.day, k=3, writer=writer)[0].text
