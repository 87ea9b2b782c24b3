"""A small world of titles, a tokenizer of them, tiny models of several families, and an untrained SASRec."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from habitus.apps.ilora.gate import GateConfig
from habitus.apps.ilora.mix import MixConfig
from habitus.apps.ilora.model import IloraConfig, InstanceLora
from habitus.apps.ilora.prepare import Prepared, prepare
from habitus.apps.ilora.prompts import PromptConfig, Prompts
from habitus.apps.ilora.small_lm import train_tokenizer
from habitus.data.ingest import ingest
from habitus.data.log import EventLog
from habitus.data.schema import Schema
from habitus.data.store import Store
from habitus.models.artifact import save_artifact
from habitus.models.sasrec import SASRec, SASRecConfig
from habitus.testing.threads import one_thread  # noqa: F401
from habitus.tokens.event_split import EventSplit
from habitus.tokens.events import EventTokenConfig, fit_event_spec

WORDS = (
    "amber",
    "brook",
    "cedar",
    "dune",
    "ember",
    "fjord",
    "grove",
    "heath",
    "jetty",
    "knoll",
    "larch",
    "moss",
    "islet",
)
SCHEMA = {
    "name": "titles",
    "time_zone": "UTC",
    "events": {"user": "user", "item": "item", "time": "time", "time_unit": "s", "type": {"constant": "seen"}},
    "profile": {"from": "table", "key": "user", "columns": {"unseen": "unseen"}},
    "items": {"from": "table", "key": "item", "columns": {"title": {"column": "title", "kind": "text"}}},
}


def title_log(n_users: int = 24, n_items: int = 50) -> EventLog:
    """Users with 4 to 14 items each; every eighth is unseen."""
    draw = np.random.default_rng(0)
    rows = [
        {"user": f"u{u}", "item": f"i{i}", "time": 1_000_000 + 60 * place}
        for u in range(n_users)
        for place, i in enumerate(draw.permutation(n_items)[: draw.integers(4, 15)])
    ]
    titles = [f"{WORDS[i % 13]} {WORDS[(i * 7 + i // 13) % 13]} {i}".title() for i in range(n_items)]
    items = pl.DataFrame({"item": [f"i{i}" for i in range(n_items)], "title": titles})
    unseen = ["yes" if u % 8 == 7 else "no" for u in range(n_users)]
    users = pl.DataFrame({"user": [f"u{u}" for u in range(n_users)], "unseen": unseen})
    return EventLog(Schema.parse(SCHEMA), pl.DataFrame(rows), users, items)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("ilora")
    ingest(title_log(), folder / "titles.store")
    return prepare(folder / "titles.store", folder / "prepared", unseen="unseen")


@pytest.fixture(scope="session")
def sasrec(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with two members that nothing was taught."""
    store = Store.open(prepared.store)
    spec = fit_event_spec(store, EventTokenConfig(length=12, fields=("item",)), EventSplit())
    config = SASRecConfig(d_model=16, n_heads=1, n_blocks=1)
    members = [SASRec(config, spec.shape, seed=seed) for seed in range(2)]
    folder = tmp_path_factory.mktemp("sasrec") / "artifact"
    return save_artifact(folder, members, name="sasrec", spec=spec.to_json(), fingerprint=spec.fingerprint, heads=())


@pytest.fixture(scope="session")
def prompts(prepared: Prepared) -> Prompts:
    config = PromptConfig(domain="items")
    return Prompts(train_tokenizer(prepared.sequences.titles, config, 400), prepared.sequences.titles, config, 1024)


def tiny_causal(family: str, n_pieces: int, seed: int = 0) -> Any:
    """A causal LM of a family, 2 layers of width 32, random weights."""
    import transformers

    size = {
        "vocab_size": n_pieces, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 1024,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma": "Gemma", "gemma2": "Gemma2"}
    if family == "qwen2":
        size.pop("head_dim")
    config = getattr(transformers, f"{names[family]}Config")(**size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{names[family]}ForCausalLM")(config)
        for p in model.parameters():
            if p.ndim > 1:
                p.data.normal_(0.0, 0.2)
    return model.eval()


@contextmanager
def hushed() -> Iterator[None]:
    """Stock PEFT asks for a property that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "gemma2")


@pytest.fixture
def make_model(prompts: Prompts):
    """Make an InstanceLora with one adapter whose factors and gate are not zero."""

    def make(gate: str = "linear", family: str = "llama", *, seed: int = 0, r: int = 8) -> InstanceLora:
        causal = tiny_causal(family, len(prompts.tokenizer))
        draw = torch.Generator().manual_seed(1)
        vectors = torch.randn(prompts.n_items, 16, generator=draw)
        known = np.ones(prompts.n_items, bool)
        known[3] = False
        model = InstanceLora(causal, prompts, vectors, known, {"base": "one", "states": "two"})
        config = IloraConfig(mix=MixConfig(r=r), gate=GateConfig(name=gate), seed=seed)  # pyright: ignore
        model.add("default", config, torch.randn(40, 16, generator=draw))
        stir(model)
        return model

    return make


@torch.no_grad()
def stir(model: InstanceLora) -> None:
    """Give B and the last layer of the gate values, so that adapters and gates matter."""
    draw = torch.Generator().manual_seed(2)
    for group in ("lora", "gate"):
        for p in model.trained()[group]:
            p.copy_(torch.randn(p.shape, generator=draw) * 0.3)
