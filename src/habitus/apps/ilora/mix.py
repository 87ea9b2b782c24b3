"""The tuner: LoRA whose rank is cut into experts, mixed by weights that belong to each row of the batch.

For one adapted linear layer: y = W x + (alpha / r) B (m * A(dropout x)), m repeating N w over the ranks of each expert.
Weights of 1/N make m exactly 1: that is plain LoRA, and its files are those of plain LoRA, which stock PEFT opens.

Source: iLoRA, arXiv 2408.10159 (its scaling, alpha over r / N per expert, is the same at w = 1/N).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.core.errors import ConfigError, TrainingError, nearest

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class MixConfig(Config):
    """What the user chooses of the tuner. `targets` empty adapts the seven projections, or every linear layer.

    Errors: `ConfigError` when `n_experts` does not divide `r`.

    >>> MixConfig().r, MixConfig().alpha
    (8, 32.0)
    """

    r: int = Field(8, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    n_experts: int = Field(4, ge=1)
    targets: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse experts of unequal rank."""
        if self.r % self.n_experts:
            raise ConfigError(f"n_experts that divide r = {self.r}", str(self.n_experts), where="mix")


class Mixture:
    """The one place where the weights of the batch in hand lie; every adapted layer reads it, in backward too."""

    def __init__(self) -> None:
        self.weights: Tensor | None = None
        self.may_merge = False

    def over_ranks(self, x: Tensor, r: int) -> Tensor:
        """Give N w repeated over the ranks, B 1 r. Errors: `TrainingError` when unset or not one per row."""
        w = self.weights
        fix = "run the model inside `with mixing(model, weights):`, one row of weights per row of the batch"
        if w is None:
            raise TrainingError("weights of experts for this batch", "none", where="mixed LoRA", fix=fix)
        if x.ndim != 3 or len(w) != len(x):
            found = f"a batch {tuple(x.shape)} and weights {tuple(w.shape)}"
            raise TrainingError("one row of weights per row of the batch", found, where="mixed LoRA", fix=fix)
        n = w.shape[1]
        return (w * n).repeat_interleave(r // n, dim=1)[:, None]


class MixedLinear(LoraLinear):
    """A linear layer with LoRA factors whose ranks are weighed per row. Plain LoRA where the weights are equal."""

    mixture: Mixture

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged or not any(name in self.lora_A for name in self.active_adapters):
            return super().forward(x, *args, **kwargs)
        result = self.base_layer(x, *args, **kwargs)
        kind = result.dtype
        for name in self.active_adapters:
            if name not in self.lora_A:
                continue
            a, b = self.lora_A[name], self.lora_B[name]
            x = self._cast_input_dtype(x, a.weight.dtype)  # pyright: ignore
            low = a(self.lora_dropout[name](x))
            result = result + b(low * self.mixture.over_ranks(low, self.r[name]).to(low.dtype)) * self.scaling[name]
        return result.to(kind)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold the factors into the layer: only where all rows have equal weights. Errors: `ConfigError`."""
        if not self.mixture.may_merge:
            fix = "keep the adapter beside the model"
            raise ConfigError("a uniform gate", "weights that differ between rows", where="merge", fix=fix)
        super().merge(safe_merge, adapter_names)


@contextmanager
def mixing(model: nn.Module, weights: Tensor) -> Iterator[None]:
    """Let every adapted layer of `model` use these weights (B N) while the block runs, backward included."""
    mixture = mixture_of(model)
    before, mixture.weights = mixture.weights, weights
    try:
        yield
    finally:
        mixture.weights = before


def mixture_of(model: nn.Module) -> Mixture:
    """Give the mixture that the layers of a model share. Errors: `ConfigError` for a model without mixed layers."""
    for module in model.modules():
        if isinstance(module, MixedLinear):
            return module.mixture
    raise ConfigError("a model with mixed LoRA layers", "none in it", where="mixing")


def add_mixed_lora(model: Any, config: MixConfig, *, name: str = "default", seed: int = 0) -> PeftModel:
    """Put adapters into a causal LM, or one more adapter into a model that has some; the seed draws A, B is zero.

    The base model is frozen. Errors: `ConfigError` for a target that the model has not.
    """
    config.check()
    chosen = lora_config(config, model)
    with torch.random.fork_rng(devices=[]), _hushed():
        torch.manual_seed(seed)
        if isinstance(model, PeftModel):
            model.add_adapter(name, chosen)
            made = model
        else:
            made = get_peft_model(model, chosen, adapter_name=name)
    return _shared(made)  # pyright: ignore


def load_mixed_lora(model: Any, folder: str | Path, *, name: str = "default", is_trainable: bool = False) -> PeftModel:
    """Open a folder of PEFT (plain LoRA or ours) as an adapter with mixed layers."""
    if isinstance(model, PeftModel):
        with _hushed():
            model.load_adapter(str(folder), adapter_name=name, is_trainable=is_trainable)
        return _shared(model)
    chosen = LoraConfig.from_pretrained(str(folder))
    chosen._register_custom_module({nn.Linear: MixedLinear})  # pyright: ignore
    chosen.inference_mode = not is_trainable
    options = {"adapter_name": name, "is_trainable": is_trainable, "config": chosen}
    with _hushed():
        made = PeftModel.from_pretrained(model, str(folder), **options)
    return _shared(made)


@contextmanager
def _hushed() -> Iterator[None]:
    """PEFT asks a model for a property that transformers has renamed: its warning is nothing a user can act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def lora_config(config: MixConfig, model: Any) -> LoraConfig:
    """Give the configuration of PEFT, with our layer registered for linear layers."""
    chosen = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=config.alpha,  # pyright: ignore
        lora_dropout=config.dropout,
        target_modules=_targets(config, model),
        bias="none",
    )
    chosen._register_custom_module({nn.Linear: MixedLinear})  # pyright: ignore
    return chosen


def _targets(config: MixConfig, model: nn.Module) -> list[str] | str:
    linear = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    linear |= {name.rsplit(".", 2)[-2] for name, m in model.named_modules() if name.endswith(".base_layer")}
    if config.targets:
        unknown = sorted(set(config.targets) - linear)
        if unknown:
            meant = nearest(unknown[0], linear)
            fix = f"did you mean {meant!r}?" if meant else ""
            known = ", ".join(sorted(linear))
            raise ConfigError(f"linear layers out of: {known}", unknown[0], where="mix.targets", fix=fix)
        return list(config.targets)
    return [name for name in PROJECTIONS if name in linear] or "all-linear"


def _shared(model: PeftModel) -> PeftModel:
    """Give all mixed layers one mixture."""
    layers = [module for module in model.modules() if isinstance(module, MixedLinear)]
    if not layers:
        raise ConfigError("linear layers that can be adapted", "none", where="mixed LoRA")
    mixture = next((layer.mixture for layer in layers if hasattr(layer, "mixture")), None) or Mixture()
    for layer in layers:
        layer.mixture = mixture
    return model
