"""A causal language model with instance-wise LoRA: gate and projector beside PEFT's adapter, several by name.

FOLDER   adapter_config.json, adapter_model.safetensors (PEFT's own) · extras.safetensors (gate, projector, slot) ·
         ilora.json (what was chosen, fingerprints) · tokenizer files
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from habitus.apps.ilora.gate import Gate, GateConfig
from habitus.apps.ilora.mix import MixConfig, add_mixed_lora, load_mixed_lora, mixing, mixture_of
from habitus.apps.ilora.prompts import SLOT, PromptBatch, PromptConfig, Prompts
from habitus.core.atomic import new_folder, write_json
from habitus.core.config import Config
from habitus.core.errors import ArtifactError, ConfigError, FingerprintError

FORMAT = 1
_OURS = "extras.safetensors"


class IloraConfig(Config):
    """One adapter: tuner, gate, whether slots ever hold item vectors, and how long these start beside token vectors.

    >>> IloraConfig().mix.n_experts
    4
    """

    mix: MixConfig = Field(default_factory=lambda: MixConfig.parse({}))
    gate: GateConfig = Field(default_factory=lambda: GateConfig.parse({}))
    is_hybrid: bool = True
    slot_scale: float = Field(1.0, ge=0)
    seed: int = 0


class Projector(nn.Module):
    """Item vectors (.. d) to token vectors (.. D): two layers times a learnt scale; unseen items have a learnt row."""

    def __init__(self, d: int, width: int, rms: float, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(d, width), nn.GELU(), nn.Linear(width, width))
            self.unseen = nn.Parameter(torch.randn(d))
        self.rms = rms
        self.scale = nn.Parameter(torch.tensor(1.0))

    @torch.no_grad()
    def start(self, vectors: Tensor, share: float = 1.0) -> None:
        """Set the scale so that projected vectors are as long as token vectors, or a share of that."""
        self.scale.fill_(1.0)
        made = self.net(vectors) if len(vectors) else torch.ones(1)
        self.scale.fill_(share * self.rms / float(made.square().mean().sqrt().clamp(min=1e-12)))

    def forward(self, vectors: Tensor, is_known: Tensor) -> Tensor:
        return self.net(torch.where(is_known[..., None], vectors, self.unseen)) * self.scale


class Extras(nn.Module):
    """What an adapter has beside PEFT's factors: gate, projector, and how states were standardised."""

    def __init__(self, config: IloraConfig, d: int, width: int, rms: float) -> None:
        super().__init__()
        self.config = config
        self.gate = Gate(config.gate, d, config.mix.n_experts)
        self.projector = Projector(d, width, rms, config.seed)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("std", torch.ones(d))

    def weights(self, state: Tensor, key: np.ndarray) -> Tensor:
        """Weights of experts, B N, of states as the model of items gives them."""
        return self.gate((state - self.mean) / self.std, key)


class InstanceLora(nn.Module):
    """A frozen causal LM with adapters by name, one of them active.

    Parameters
    ----------
    causal
        Any causal LM of transformers.
    prompts
        Titles and phrases cut by its tokenizer.
    vectors, is_known
        The frozen vector of every item [n_items, d], and which of them mean something.
    fingerprints
        What the adapters will be tied to, by name: base, states, prompts.

    Errors: `ConfigError` for the name of an adapter that is not there, or that is there already.
    """

    def __init__(
        self, causal: Any, prompts: Prompts, vectors: Tensor, is_known: np.ndarray, fingerprints: dict[str, str]
    ) -> None:
        super().__init__()
        self.causal, self.prompts, self.fingerprints = causal.requires_grad_(False), prompts, dict(fingerprints)
        self.peft: Any = None
        self.extras = nn.ModuleDict()
        self.active = ""
        embedding = causal.get_input_embeddings()
        self.width = embedding.weight.shape[1]
        self.vectors: Tensor
        self.is_known: Tensor
        self.slot: Tensor
        self.register_buffer("vectors", vectors.float(), persistent=False)
        self.register_buffer("is_known", torch.from_numpy(is_known), persistent=False)
        self.register_buffer("slot", _slot(prompts, embedding), persistent=False)
        some = embedding(torch.arange(min(len(embedding.weight), 4096), device=embedding.weight.device))
        self.rms = float(some.float().square().mean().sqrt())
        self.to(embedding.weight.device)

    @property
    def device(self) -> torch.device:
        return self.slot.device

    @property
    def current(self) -> Extras:
        """What the active adapter has beside PEFT's factors. Errors: `ConfigError` without an adapter."""
        if not self.active:
            raise ConfigError("an adapter", "none", where="InstanceLora", fix="add or load one")
        return self.extras[self.active]  # pyright: ignore

    def add(self, name: str, config: IloraConfig, states: Tensor | None = None) -> None:
        """Add an adapter that changes nothing yet; `states` of training rows standardise what its gate reads."""
        self._refuse(name)
        target = self.peft if self.peft is not None else self.causal
        self.peft = add_mixed_lora(target, config.mix, name=name, seed=config.seed)
        extras = Extras(config, self.vectors.shape[1], self.width, self.rms)
        if states is not None and len(states) > 1:
            extras.mean.copy_(states.mean(dim=0))
            extras.std.copy_(states.std(dim=0).clamp(min=1e-6))
        self.extras[name] = extras.to(self.device)
        extras.projector.start(self.vectors[self.is_known][:4096], config.slot_scale)
        self.set_adapter(name)

    def set_adapter(self, name: str) -> None:
        """Make an adapter the active one. Errors: `ConfigError`."""
        if name not in self.extras:
            raise ConfigError(f"an adapter out of: {', '.join(self.extras)}", repr(name), where="InstanceLora")
        self.active = name
        self.peft.set_adapter(name)
        mixture_of(self.peft).may_merge = self.current.gate.is_uniform

    def trained(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that training changes, by group: lora, gate, projector."""
        lora = [p for name, p in self.peft.named_parameters() if f".{self.active}." in name and "lora_" in name]
        for p in lora:
            p.requires_grad_(True)
        projector = list(self.current.projector.parameters()) if self.current.config.is_hybrid else []
        return {"lora": lora, "gate": list(self.current.gate.parameters()), "projector": projector}

    def print_trainable_parameters(self) -> str:
        """Print, and give, how many parameters training changes, by group, and their share of all."""
        counts = {name: sum(p.numel() for p in group) for name, group in self.trained().items()}
        whole = sum(p.numel() for p in self.parameters())
        parts = " + ".join(f"{n:,} {name}" for name, n in counts.items())
        n = sum(counts.values())
        text = f"trainable {n:,} ({parts}) of {whole:,}: {n / whole:.2%}"
        print(text)  # noqa: T201
        return text

    def embed(self, batch: PromptBatch, *, is_hybrid: bool) -> Tensor:
        """Token vectors B L D; slots hold one fixed vector, and if hybrid their item's projected one added."""
        ids = torch.from_numpy(np.where(batch.ids == SLOT, self.prompts.pad, batch.ids)).to(self.device)
        made = self.causal.get_input_embeddings()(ids)
        is_slot = torch.from_numpy(batch.ids == SLOT).to(self.device)
        if not bool(is_slot.any()):
            return made
        if is_hybrid:
            items = torch.from_numpy(batch.slot_item[batch.ids == SLOT]).to(self.device)
            each, place = torch.unique(items, return_inverse=True)
            fill = self.slot + self.current.projector(self.vectors[each], self.is_known[each])[place]
        else:
            fill = self.slot.expand(int(is_slot.sum()), -1)
        return made.masked_scatter(is_slot[..., None], fill.to(made.dtype))

    def weights(self, state: Tensor, key: np.ndarray) -> Tensor:
        """Weights of experts of the active adapter, B N."""
        return self.current.weights(state.to(self.device), key)

    def forward(
        self, batch: PromptBatch, weights: Tensor | None, *, is_hybrid: bool, keep: int = 0, **more: Any
    ) -> Any:
        """Run the model on prompts; `keep` is how many last places get logits (0: all).

        `weights` None runs the base model without its adapters.
        """
        mask = torch.from_numpy(batch.is_token).to(self.device)
        position = (mask.long().cumsum(1) - 1).clamp(min=0)
        given = {"inputs_embeds": self.embed(batch, is_hybrid=is_hybrid), "attention_mask": mask.long()}
        return self.run(weights, position_ids=position, logits_to_keep=keep, **given, **more)

    def run(self, weights: Tensor | None, **given: Any) -> Any:
        """Call the language model with experts mixed by `weights`; None: the base model alone."""
        if self.peft is None:
            return self.causal(**given)
        if weights is None:
            with self.peft.disable_adapter():
                return self.causal(**given)
        with mixing(self.peft, weights):
            return self.causal(**given)

    def save(self, folder: str | Path, name: str | None = None, *, facts: dict[str, Any] | None = None) -> Path:
        """Write one adapter as a folder, beside then renamed. The base model is not in it, its fingerprint is."""
        name = name or self.active
        if name not in self.extras:
            raise ConfigError(f"an adapter out of: {', '.join(self.extras)}", repr(name), where="save")
        extras: Any = self.extras[name]
        with new_folder(folder, replace=True) as beside:
            self.peft.save_pretrained(str(beside), selected_adapters=[name], save_embedding_layers=False)
            inner = beside / name
            if inner.is_dir():  # PEFT puts every adapter but `default` one folder lower
                for file in inner.iterdir():
                    file.replace(beside / file.name)
                inner.rmdir()
            ours = {key: t.detach().cpu().contiguous() for key, t in extras.state_dict().items()}
            save_file(ours | {"slot": self.slot.detach().cpu().float()}, beside / _OURS)
            self.prompts.tokenizer.save_pretrained(beside)
            (beside / "README.md").write_text(_card(name, extras.config, facts or {}), "utf-8")
            plain = {"format": FORMAT, "config": extras.config.model_dump(mode="json"), "d": int(self.vectors.shape[1])}
            plain |= {"prompts": self.prompts.config.model_dump(mode="json"), "fingerprints": self.fingerprints}
            write_json(beside / "ilora.json", plain | {"facts": facts or {}})
        return Path(folder)

    def load(self, folder: str | Path, name: str = "default") -> dict[str, Any]:
        """Open a folder that `save` wrote, make it the active adapter, and give the facts noted with it.

        Errors: `ArtifactError` when it is none; `FingerprintError` when it was trained on another base model, other
        item states or other prompts.
        """
        self._refuse(name)
        plain = read_ilora(folder)
        for key, own in self.fingerprints.items():
            theirs = plain["fingerprints"].get(key)
            if theirs != own:
                fix = f"open it with the {key} it was trained with, or train again"
                raise FingerprintError(f"{key} {str(theirs)[:12]}", own[:12], where=str(folder), fix=fix)
        config = IloraConfig.parse(plain["config"], where=f"{folder}/ilora.json")
        target = self.peft if self.peft is not None else self.causal
        extras = Extras(config, int(plain["d"]), self.width, self.rms)
        try:
            values = load_file(Path(folder) / _OURS)
            slot = values.pop("slot")
            extras.load_state_dict(values)
            self.peft = load_mixed_lora(target, folder, name=name)
        except (SafetensorError, RuntimeError, OSError, ValueError) as cause:
            found = str(cause).splitlines()[0][:200]
            raise ArtifactError(
                "an adapter that fits the model", found, where=str(folder), fix="copy it again"
            ) from None
        self.slot.copy_(slot)
        self.extras[name] = extras.to(self.device)
        self.set_adapter(name)
        return plain["facts"]

    def _refuse(self, name: str) -> None:
        if not name or name in "lora_":  # PEFT tells its tensors by this word
            raise ConfigError("a name that is no part of 'lora_'", repr(name), where="InstanceLora")
        if name in self.extras:
            raise ConfigError("a new name for an adapter", repr(name), where="InstanceLora", fix="choose another one")


def read_ilora(folder: str | Path) -> dict[str, Any]:
    """Read what an adapter notes of itself. Errors: `ArtifactError`."""
    file = Path(folder) / "ilora.json"
    if not file.is_file():
        fix = "train one with `habitus ilora train`"
        raise ArtifactError("an adapter folder with ilora.json", "none", where=str(folder), fix=fix)
    plain = json.loads(file.read_text("utf-8"))
    if plain.get("format") != FORMAT:
        raise ArtifactError(f"format {FORMAT}", f"format {plain.get('format')}", where=str(file))
    return plain


def open_causal(folder: str | Path, *, device: str | None = None) -> tuple[Any, Any, str]:
    """Open a folder with any causal LM and its tokenizer: model, tokenizer, fingerprint. Nothing is downloaded.

    A GPU is used when there; its model is read in bfloat16, on a CPU in float32.
    Errors: `ExtraError` without [llm]; `ArtifactError` for a folder without a model or without a tokenizer.
    """
    from habitus.core.errors import require

    require("transformers", "llm")
    require("peft", "llm")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        fix = "name a folder that transformers wrote, or make one with `habitus lm pretrain`"
        raise ArtifactError("a folder with a causal LM (config.json)", "none", where=str(folder), fix=fix)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        fix = "copy tokenizer.json and tokenizer_config.json of the model into the folder"
        raise ArtifactError("a model folder with its tokenizer", "no tokenizer.json", where=str(folder), fix=fix)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = torch.bfloat16 if device.startswith("cuda") else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True, dtype=kind)
    except (OSError, ValueError, KeyError) as cause:
        found = str(cause).splitlines()[0][:200]
        raise ArtifactError("a causal LM that transformers can open", found, where=str(folder)) from None
    model.to(device).eval()  # pyright: ignore
    return model, tokenizer, folder_fingerprint(folder)


def folder_fingerprint(folder: str | Path) -> str:
    """SHA-256 over the weights and the configuration of a model folder."""
    digest = hashlib.sha256()
    files = sorted([*Path(folder).glob("*.safetensors"), *Path(folder).glob("*.bin"), Path(folder) / "config.json"])
    for file in files:
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def context_of(causal: Any) -> int:
    """How many tokens a model reads."""
    return int(getattr(causal.config, "max_position_embeddings", None) or 1 << 20)


def prompts_of(causal: Any, tokenizer: Any, titles: tuple[str, ...], config: PromptConfig) -> Prompts:
    """Cut titles and phrases by a model's tokenizer. Errors: `ConfigError` for a title beyond the context."""
    return Prompts(tokenizer, titles, config, context_of(causal))


def _slot(prompts: Prompts, embedding: Any) -> Tensor:
    """The vector of a slot in text mode: that of `[PH]` where the tokenizer has it, else the mean of all tokens."""
    known = prompts.tokenizer.get_vocab()
    with torch.no_grad():
        if "[PH]" in known:
            return embedding(torch.tensor([known["[PH]"]], device=embedding.weight.device))[0].clone()
        return embedding(torch.arange(len(embedding.weight), device=embedding.weight.device)).mean(dim=0)


def _card(name: str, config: IloraConfig, facts: dict[str, Any]) -> str:
    lines = [f"# {name}", "", f"Gate {config.gate.name}, {config.mix.n_experts} experts, r {config.mix.r}.", ""]
    lines += ["Stock PEFT opens this folder as plain LoRA, which is the uniform gate.", ""]
    return "\n".join(
        [*lines, *(f"- {key}: {value}" for key, value in facts.items() if not isinstance(value, list)), ""]
    )
