"""LUMOS: the encoded days of a user's past, asked by the coming days of a calendar that is known in advance.

Source: "LUMOS: Large User MOdels for User Behavior Prediction", arXiv 2512.08957; deviations are listed in the guide.

Shape letters: B samples, S kept history days, F future days, D width, A activity numbers, E known-event numbers,
P profile columns, K targets, O head outputs, H history days.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.tokens.batch import DayBatch, Kind

Size = Literal["tiny", "small", "base", "large", "reference"]

_DIALS = ("d_model", "n_heads", "d_ff", "n_encoder", "n_decoder")
_SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(zip(_DIALS, (64, 4, 128, 2, 1))),
    "small": dict(zip(_DIALS, (192, 6, 768, 4, 2))),
    "base": dict(zip(_DIALS, (512, 8, 1024, 4, 2))),
    "large": dict(zip(_DIALS, (1024, 16, 4096, 12, 4))),
    "reference": {
        **dict(zip(_DIALS, (512, 8, 1024, 4, 2))),
        "norm": "post",
        "activation": "relu",
        "positions": "sinusoidal",
        "readout": "flatten",
        "has_kind_vectors": False,
        "calendar_gain": 0.0,
    },
}


class LumosConfig(Config):
    """What the user chooses. `size` fills every dial below it that is not given.

    `reference` is the form with 14,691,845 parameters at the reference shape: post-norm, ReLU, sinusoidal positions,
    flattened readout, no vectors for silent days. The other sizes are our form of it.

    `d_profile` opens a second way for the profile, through a hidden layer of that width to every future query; 0 leaves
    the history as its only way, as in the paper. Worth it when the profile holds aggregates of the whole life.
    `has_glance` shows that way the coming calendar as a whole too (mean, highest and lowest of each known-event number
    over the horizon): a future day's query knows its own day alone. It needs `d_profile`.
    `profile_gain` scales a linear way from the profile to the window outputs; 0 leaves it out. The norm before the
    outputs bounds what they can say: whoever spends a hundred times what others do needs a way without a bound.
    `calendar_gain` scales a linear way from a day's known events to its outputs; 0 leaves it out. A weekday on which
    nobody ever comes has tiny gradients: without this way it takes thousands of steps to learn.
    `taste_gain` scales such a way whose weights are a linear reading of the profile: whom a sale moves, and whom not; 0
    leaves it out.
    `day_gain` scales a linear way from what is said of the single days to the window outputs (the log of the mean over
    days); 0 leaves it out. What an event does is learnt on its days, from 28 times as many labels: this way the window
    hears of it. It needs targets by day.

    Errors: an unknown key, or a width that the heads do not divide, is a `ConfigError` from `parse`.

    >>> LumosConfig(size="tiny").d_model, LumosConfig(size="tiny", n_heads=2).n_heads
    (64, 2)
    """

    size: Size = "small"
    d_model: int = Field(192, gt=0)
    n_heads: int = Field(6, gt=0)
    d_ff: int = Field(768, gt=0)
    n_encoder: int = Field(4, ge=0)
    n_decoder: int = Field(2, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    norm: Literal["pre", "post"] = "pre"
    activation: Literal["gelu", "relu"] = "gelu"
    positions: Literal["learned", "sinusoidal", "tape", "none"] = "learned"
    readout: Literal["pool", "flatten"] = "pool"
    has_kind_vectors: bool = True
    future_self_attention: bool = False
    d_profile: int = Field(0, ge=0)
    has_glance: bool = False
    profile_gain: float = Field(0.0, ge=0)
    calendar_gain: float = Field(30.0, ge=0)
    taste_gain: float = Field(0.0, ge=0)
    day_gain: float = Field(0.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_size(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        size = values.get("size", "small")
        return {**_SIZES.get(size, {}), **values} if isinstance(size, str) else values

    @model_validator(mode="after")
    def _check_widths(self) -> Self:
        if self.d_model % 8:
            raise ValueError("d_model must be a multiple of 8")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads ({self.n_heads})")
        if self.has_glance and not self.d_profile:
            raise ValueError("has_glance needs d_profile above 0")
        return self


@dataclass(frozen=True)
class LumosShape:
    """What the data imply: widths of a batch, lengths of the time line, outputs per target.

    `is_straight` says per window target whether the linear way of `profile_gain` reaches it; empty for all of them.
    """

    n_activity: int
    n_known: int
    n_profile: int
    history: int
    horizon: int
    outputs: tuple[int, ...] = ()
    day_outputs: tuple[int, ...] = ()
    is_straight: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Cache:
    """A past, encoded once: a further calendar then costs only a decode.

    `h` B S D; `keys` and `values` one B heads S D/heads per decoder layer; `mask` B 1 1 S, true on days that count;
    `about` B d_profile, what the profile says for every future query, or None;
    `window` B O, what it says for the window outputs directly, or None;
    `taste` B O_day E, how it weighs the known events of a day, or None.
    It holds for one past: a calendar that differs at or before the cut-off needs a new one.
    """

    h: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    about: Tensor | None = None
    window: Tensor | None = None
    taste: Tensor | None = None


@dataclass(frozen=True)
class LumosOutput:
    """Raw head outputs: `window` B O, targets side by side; `day` B F O_day, or None when not asked for."""

    window: Tensor
    day: Tensor | None


class Linear(nn.Linear):
    """A linear layer that `Lumos` draws; it may have no inputs at all (no profile, no calendar)."""

    def reset_parameters(self) -> None:
        pass


class Attention(nn.Module):
    """Multi-head attention, biases everywhere, scale 1/sqrt(D/heads)."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = Linear(d_model, d_model)
        self.key_value = Linear(d_model, 2 * d_model)
        self.out = Linear(d_model, d_model)

    def project(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """B S D -> keys and values, each B heads S D/heads."""
        keys, values = self.key_value(h).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Ask with x (B T D); `mask` is true on keys that count."""
        mixed = F.scaled_dot_product_attention(self._split(self.query(x)), keys, values, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """D -> d_ff -> D."""

    def __init__(self, config: LumosConfig) -> None:
        super().__init__()
        self.rise = Linear(config.d_model, config.d_ff)
        self.fall = Linear(config.d_ff, config.d_model)
        self.activation = _activation(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.fall(self.activation(self.rise(x)))


class Residual(nn.Module):
    """The residual around one sublayer: pre-norm x + f(norm x), or post-norm norm(x + f(x))."""

    def __init__(self, config: LumosConfig) -> None:
        super().__init__()
        self.is_pre = config.norm == "pre"
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def before(self, x: Tensor) -> Tensor:
        """What the sublayer reads."""
        return self.norm(x) if self.is_pre else x

    def after(self, x: Tensor, change: Tensor) -> Tensor:
        """What comes out, given what the sublayer gave."""
        x = x + self.dropout(change)
        return x if self.is_pre else self.norm(x)


class EncoderBlock(nn.Module):
    """Self-attention over all kept days, both ways, then a feed-forward layer."""

    def __init__(self, config: LumosConfig) -> None:
        super().__init__()
        self.attention, self.feed = Attention(config.d_model, config.n_heads), FeedForward(config)
        self.around_attention, self.around_feed = Residual(config), Residual(config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        read = self.around_attention.before(x)
        x = self.around_attention.after(x, self.attention(read, *self.attention.project(read), mask))
        return self.around_feed.after(x, self.feed(self.around_feed.before(x)))


class DecoderBlock(nn.Module):
    """Future days ask the encoded past; they see each other only with `future_self_attention`."""

    def __init__(self, config: LumosConfig) -> None:
        super().__init__()
        self.attention, self.feed = Attention(config.d_model, config.n_heads), FeedForward(config)
        self.around_attention, self.around_feed = Residual(config), Residual(config)
        self.among = Attention(config.d_model, config.n_heads) if config.future_self_attention else None
        self.around_among = Residual(config) if config.future_self_attention else None

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        if self.among is not None and self.around_among is not None:
            read = self.around_among.before(x)
            x = self.around_among.after(x, self.among(read, *self.among.project(read), None))
        x = self.around_attention.after(x, self.attention(self.around_attention.before(x), keys, values, mask))
        return self.around_feed.after(x, self.feed(self.around_feed.before(x)))


class About(nn.Module):
    """P -> d_profile -> D: the profile's own way to the future queries; with a glance 3·E join in the middle."""

    def __init__(self, config: LumosConfig, shape: LumosShape) -> None:
        super().__init__()
        self.rise = Linear(shape.n_profile, config.d_profile)
        self.glance = Linear(3 * shape.n_known, config.d_profile) if config.has_glance else None
        self.fall = Linear(config.d_profile, config.d_model)
        self.activation, self.dropout = _activation(config), nn.Dropout(config.dropout)

    def forward(self, profile: Tensor) -> Tensor:
        """B P -> B d_profile: the part that another calendar does not change."""
        return self.rise(self.dropout(profile))

    def ask(self, said: Tensor, known_future: Tensor) -> Tensor:
        """B d_profile and the calendar (B F E) -> B D, for every future query."""
        if self.glance is not None:
            whole = [known_future.mean(dim=1), known_future.amax(dim=1), known_future.amin(dim=1)]
            said = said + self.glance(torch.cat(whole, dim=-1))
        return self.fall(self.dropout(self.activation(said)))


class Straight(nn.Module):
    """P -> O: a linear way from the profile to the window outputs, from zero; see `training.linear_start`."""

    def __init__(self, config: LumosConfig, shape: LumosShape) -> None:
        super().__init__()
        self.gain, self.dropout = config.profile_gain, nn.Dropout(config.dropout)
        self.line = Linear(shape.n_profile, sum(shape.outputs))
        is_straight = shape.is_straight or (True,) * len(shape.outputs)
        self.is_open = [float(is_it) for is_it, n in zip(is_straight, shape.outputs) for _ in range(n)]

    def forward(self, profile: Tensor) -> Tensor:
        return self.gain * self.line(self.dropout(profile)) * profile.new_tensor(self.is_open)


class Pool(nn.Module):
    """One learned query per target weighs the future days: softmax(q·z / sqrt D) over F."""

    def __init__(self, config: LumosConfig, shape: LumosShape) -> None:
        super().__init__()
        d = config.d_model
        self.queries = nn.Parameter(torch.empty(len(shape.outputs), d))
        self.mix = Linear(d, d)
        self.activation = _activation(config)
        self.heads = nn.ModuleList(Linear(d, n) for n in shape.outputs)

    def forward(self, z: Tensor) -> Tensor:
        weights = (self.queries @ z.mT / math.sqrt(z.shape[-1])).softmax(dim=-1)  # B K F
        mixed = self.activation(self.mix(weights @ z))  # B K D
        return torch.cat([head(mixed[:, k]) for k, head in enumerate(self.heads)], dim=-1)


class Flatten(nn.Module):
    """F·D -> D -> O, as in the reference."""

    def __init__(self, config: LumosConfig, shape: LumosShape) -> None:
        super().__init__()
        self.mix = Linear(shape.horizon * config.d_model, config.d_model)
        self.activation = _activation(config)
        self.head = Linear(config.d_model, sum(shape.outputs))

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.activation(self.mix(z.flatten(1))))


class PerDay(nn.Module):
    """D -> D -> O_day, for every future day alike, and a linear way from its known events (E -> O_day, from zero)."""

    def __init__(self, config: LumosConfig, shape: LumosShape) -> None:
        super().__init__()
        self.mix = Linear(config.d_model, config.d_model)
        self.activation = _activation(config)
        self.head = Linear(config.d_model, sum(shape.day_outputs))
        self.gain = config.calendar_gain
        self.calendar = Linear(shape.n_known, sum(shape.day_outputs)) if self.gain else None

    def forward(self, z: Tensor, known_future: Tensor) -> Tensor:
        raw = self.head(self.activation(self.mix(z)))
        return raw if self.calendar is None else raw + self.gain * self.calendar(known_future)


class Taste(nn.Module):
    """P -> O_day E: how a user weighs each known-event number of a day, from zero."""

    def __init__(self, config: LumosConfig, shape: LumosShape) -> None:
        super().__init__()
        self.gain, self.n_known = config.taste_gain, shape.n_known
        self.line = Linear(shape.n_profile, sum(shape.day_outputs) * shape.n_known)

    def forward(self, profile: Tensor) -> Tensor:
        return self.gain * self.line(profile).unflatten(-1, (-1, self.n_known))


class FromDays(nn.Module):
    """O_day -> O: a linear way, from zero, from what is said of the days to what is said of the window."""

    def __init__(self, config: LumosConfig, shape: LumosShape) -> None:
        super().__init__()
        self.gain = config.day_gain
        self.line = Linear(sum(shape.day_outputs), sum(shape.outputs))

    def forward(self, day: Tensor) -> Tensor:
        """B F O_day -> B O. The log of the mean of exp: for small chances, the log of how many days are expected."""
        return self.gain * self.line(day.logsumexp(dim=1) - math.log(day.shape[1]))


class Lumos(nn.Module):
    """User-days and a known calendar in, raw head outputs out. It knows no files, no loss, no optimiser.

    Parameters
    ----------
    config, shape
        What the user chose, and what the data imply.
    seed
        Of the first weights; the global random state is left as it was.

    Dropped days equal masked keys, so a sparse history gives what the dense one with the same mask gives.
    A row in which every day is padding gives finite numbers that mean nothing.

    >>> shape = LumosShape(n_activity=3, n_known=10, n_profile=1, history=90, horizon=7, outputs=(1, 3))
    >>> batch = DayBatch.empty(n_activity=3, n_known=10, n_profile=1, horizon=7, n_targets=2)
    >>> Lumos(LumosConfig(size="tiny"), shape)(batch).window.shape
    torch.Size([0, 4])
    """

    Config = LumosConfig
    Shape = LumosShape
    CALLED_BY: ClassVar = {"decoder": ()}  # lists of blocks called in pieces; see `training.distributed.shard`

    def __init__(self, config: LumosConfig, shape: LumosShape, seed: int = 0) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        d = config.d_model
        with torch.device("meta"):  # no draw and no initialisation here: `_initialise` does both
            self.activity = Linear(shape.n_activity, d // 4)
            self.known = Linear(shape.n_known, d // 4)
            self.profile = Linear(shape.n_profile, d // 8)
            self.kinds = nn.Parameter(torch.empty(2, d // 4)) if config.has_kind_vectors else None
            self.fuse = Linear(d // 4 + d // 8 + d // 4, d)
            self.ask = Linear(d // 4, d)
            self.about = About(config, shape) if config.d_profile else None
            self.straight = Straight(config, shape) if config.profile_gain and shape.outputs else None
            self.activation = _activation(config)
            n_positions = shape.history + shape.horizon
            self.places = nn.Parameter(torch.empty(n_positions, d)) if config.positions == "learned" else None
            self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_encoder))
            self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_decoder))
            is_pre = config.norm == "pre"
            self.encoder_norm = nn.LayerNorm(d) if is_pre else nn.Identity()
            self.decoder_norm = nn.LayerNorm(d) if is_pre else nn.Identity()
            readout = Pool if config.readout == "pool" else Flatten
            self.readout = readout(config, shape) if shape.outputs else None
            self.day_readout = PerDay(config, shape) if shape.day_outputs else None
            self.taste = Taste(config, shape) if config.taste_gain and shape.day_outputs else None
            is_both = bool(shape.outputs) and bool(shape.day_outputs)
            self.from_days = FromDays(config, shape) if config.day_gain and is_both else None
        self.to_empty(device="cpu")
        self.register_buffer("waves", _waves(config, n_positions), persistent=False)
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Xavier for matrices, zero for biases, small free vectors and head outputs: all start near the base rate."""
        draw = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if module.weight.numel():
                    nn.init.xavier_uniform_(module.weight, generator=draw)
                module.bias.zero_()
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        heads = [m for r in (self.readout, self.day_readout) if r for n, m in r.named_modules() if n.startswith("head")]
        for weight in (self.kinds, self.places, *(m.weight for m in heads if isinstance(m, nn.Linear))):
            if weight is not None:
                weight.normal_(0.0, 0.02, generator=draw)
        if self.straight is not None:
            self.straight.line.weight.zero_()
        if self.day_readout is not None and self.day_readout.calendar is not None:
            self.day_readout.calendar.weight.zero_()
        for way in (self.taste, self.from_days):
            if way is not None:
                way.line.weight.zero_()
        if isinstance(self.readout, Pool):
            self.readout.queries.normal_(0.0, 0.5, generator=draw)  # z has unit entries: targets look at days unevenly

    def forward(self, batch: DayBatch) -> LumosOutput:
        """Give raw outputs; the same as `decode(encode(batch), batch.known_future)`."""
        return self.decode(self.encode(batch), batch.known_future)

    def encode(self, batch: DayBatch) -> Cache:
        """Encode the past once. Nothing of `known_future` is read."""
        mask = ~batch.is_padding[:, None, None, :]
        x = self.embed_days(batch)
        for block in self.encoder:
            x = block(x, mask)
        h = self.encoder_norm(x)
        pairs = [block.attention.project(h) for block in self.decoder]  # pyright: ignore
        about = self.about(batch.profile) if self.about is not None else None
        window = self.straight(batch.profile) if self.straight is not None else None
        taste = self.taste(batch.profile) if self.taste is not None else None
        return Cache(h, tuple(k for k, _ in pairs), tuple(v for _, v in pairs), mask, about, window, taste)

    def decode(self, cache: Cache, known_future: Tensor) -> LumosOutput:
        """Ask an encoded past with a calendar (B F E)."""
        z = self.activation(self.ask(self.embed_known(known_future)))
        places = self._places()
        z = z if places is None else z + places[self.shape.history :]
        if self.about is not None and cache.about is not None:
            z = z + self.about.ask(cache.about, known_future)[:, None]
        for block, keys, values in zip(self.decoder, cache.keys, cache.values):
            z = block(z, keys, values, cache.mask)
        z = self.decoder_norm(z)
        window = self.readout(z) if self.readout is not None else z.new_zeros(z.shape[0], 0)
        window = window if cache.window is None else window + cache.window
        day = self.day_readout(z, known_future) if self.day_readout is not None else None
        if cache.taste is not None and day is not None:
            day = day + known_future @ cache.taste.mT
        if self.from_days is not None and day is not None:
            window = window + self.from_days(day)
        return LumosOutput(window, day)

    def embed_days(self, batch: DayBatch) -> Tensor:
        """History days before the encoder, B S D."""
        activity = self.activity(batch.activity)
        if self.kinds is not None:
            silent = torch.where((batch.kind == Kind.START)[..., None], self.kinds[0], self.kinds[1])
            activity = torch.where((batch.kind == Kind.ACTIVE)[..., None], activity, silent.to(activity.dtype))
        profile = self.profile(batch.profile)[:, None, :].expand(-1, activity.shape[1], -1)
        x = self.activation(self.fuse(torch.cat([activity, profile, self.embed_known(batch.known_past)], dim=-1)))
        places = self._places()
        return x if places is None else x + F.embedding(batch.day, places[: self.shape.history])

    def embed_known(self, known: Tensor) -> Tensor:
        """Known-event days as vectors (... E -> ... D/4); the same weights for past and future."""
        return self.known(known)

    def _places(self) -> Tensor | None:
        return self.places if self.places is not None else self.waves  # pyright: ignore

    def flops(self, n_kept: float) -> float:
        """Estimate the operations of one forward pass of one sample; see `flops`."""
        return flops(self.config, self.shape, n_kept)


def flops(config: LumosConfig, shape: LumosShape, n_kept: float) -> float:
    """Estimate the floating-point operations of one forward pass of one sample with `n_kept` history days.

    Two per multiply-add of matrix products and attention; norms, activations and softmax are left out. A training
    step takes about three times as much.

    >>> shape = LumosShape(n_activity=13, n_known=32, n_profile=9, history=360, horizon=7, outputs=(1,) * 5)
    >>> f"{flops(LumosConfig(size='reference'), shape, 360) / 1e9:.2f} GFLOP"
    '8.04 GFLOP'
    """
    return _past_flops(config, shape, n_kept) + _future_flops(config, shape, n_kept)


def _past_flops(config: LumosConfig, shape: LumosShape, n_kept: float) -> float:
    d, ff = config.d_model, config.d_ff
    fuse = d // 4 * (shape.n_activity + shape.n_known) + d * (d // 4 + d // 8 + d // 4)
    block = 4 * d * d + 2 * d * ff + 2 * n_kept * d
    return 2 * n_kept * (fuse + config.n_encoder * block + config.n_decoder * 2 * d * d)


def _future_flops(config: LumosConfig, shape: LumosShape, n_kept: float) -> float:
    d, ff, days = config.d_model, config.d_ff, shape.horizon
    block = 2 * d * d + 2 * d * ff + 2 * n_kept * d
    if config.future_self_attention:
        block += 4 * d * d + 2 * days * d
    per_day = d // 4 * (shape.n_known + d) + config.n_decoder * block
    straight = shape.n_profile * sum(shape.outputs) if config.profile_gain else 0
    about = config.d_profile * (shape.n_profile + d + (3 * shape.n_known if config.has_glance else 0))
    if config.readout == "flatten" and shape.outputs:
        per_day += d * d
    window = sum(shape.outputs) * d + (len(shape.outputs) * d * (2 * days + d) if config.readout == "pool" else 0)
    by_day = d * d + sum(shape.day_outputs) * (d + shape.n_known) if shape.day_outputs else 0
    return 2 * (days * (per_day + by_day) + window + about + straight)


def _activation(config: LumosConfig) -> nn.Module:
    return nn.GELU() if config.activation == "gelu" else nn.ReLU()


def _waves(config: LumosConfig, n_positions: int) -> Tensor | None:
    """Sine and cosine positions, n_positions x D; `tape` stretches the frequencies by D / n_positions."""
    if config.positions not in ("sinusoidal", "tape"):
        return None
    d = config.d_model
    stretch = d / n_positions if config.positions == "tape" else 1.0
    rates = torch.exp(torch.arange(0, d, 2, dtype=torch.float64) * (-math.log(10_000.0) / d)) * stretch
    angles = torch.arange(n_positions, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()
