"""BehaveGPT: a causal transformer over events; the next behaviour, and whole futures through a chain of heads.

Source: "BehaveGPT: A Foundation Model for Large-scale User Behavior Modeling", arXiv 2505.17631 (form `paper`). The
chain of heads (form `joint`), the sliding window and the cache are ours.

Shape letters: B rows, T positions, D width, d width of one field, V values of a field, W width of a query.
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
from habitus.core.errors import ConfigError, nearest
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape
from habitus.tokens.gaps import NEVER

CLOCK = ("weekday", "slot")  # follow from the instant of an event, so no head predicts them
PAPER = ("weekday", "slot", "place", "type")
SMALL = 0.02  # of what makes logits: training starts near even odds
FIRST = 2  # ids 0 and 1 are padding and unknown: never predicted
_DIALS = ("n_blocks", "d_field", "d_model", "n_heads")
_SIZES = {
    "tiny": (4, 16, 64, 2),
    "small": (6, 32, 128, 4),
    "base": (8, 64, 256, 4),
    "large": (12, 128, 512, 8),
    "scaling": (16, 192, 768, 12),
}


class BehaveGPTConfig(Config):
    """What the user chooses. `size` fills every dial below it that is not given.

    `form`: `paper` has one plain head per field of `plain`; `joint` adds the chain gap, type, then every other field,
    by which futures are generated. `inputs` are the fields read (empty: all; in the `paper` form those of the paper
    that there are), `plain` those predicted without any knowledge of when the next event is. `has_values` reads the
    amounts themselves beside their bins, in the `paper` form only: a drawn future knows bins. `window` is how many
    events a position sees, itself included (0: the length of the shape). The item table has width D and is also the
    output of item heads.

    Errors: an unknown key, or a width that the heads do not divide, is a `ConfigError` from `parse`.

    >>> BehaveGPTConfig(size="tiny").d_model, BehaveGPTConfig(size="tiny", n_blocks=2).n_blocks
    (64, 2)
    """

    size: Literal["tiny", "small", "base", "large", "scaling"] = "small"
    form: Literal["paper", "joint"] = "joint"
    n_blocks: int = Field(default=6, ge=1)
    d_field: int = Field(default=32, ge=1)
    d_model: int = Field(default=128, ge=2)
    n_heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    window: int = Field(default=0, ge=0)
    positions: Literal["rope", "none"] = "rope"
    inputs: tuple[str, ...] = ()
    plain: tuple[str, ...] = ("type",)
    tied: tuple[str, ...] = ("item",)
    has_values: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill_from_size(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        size = values.get("size", "small")
        filled = dict(zip(_DIALS, _SIZES[size])) if isinstance(size, str) and size in _SIZES else {}
        return {**filled, **values}

    @model_validator(mode="after")
    def _check_widths(self) -> Self:
        if self.d_model % (2 * self.n_heads):
            raise ValueError(f"d_model must be an even multiple of n_heads ({self.n_heads})")
        if self.has_values and self.form == "joint":
            raise ValueError("has_values needs form = 'paper'")
        return self


@dataclass
class Cache:
    """Keys and values of the last `window` events of every row, so that one more event costs one position.

    `keys`, `values`: blocks x B x heads x window x head width, written in a ring: event p stands in place p mod window.
    `length` B i64, events seen so far. Rows can be taken, repeated and dropped with `take`.
    """

    keys: Tensor
    values: Tensor
    length: Tensor

    def take(self, rows: Tensor) -> Cache:
        """Give the chosen rows, in that order; a row may be taken more than once."""
        return Cache(self.keys.index_select(1, rows), self.values.index_select(1, rows), self.length[rows])


def attend(q: Tensor, k: Tensor, v: Tensor, window: int, dropout: float = 0.0) -> Tensor:
    """Attend causally within a sliding window: position t sees t - window + 1 .. t. All B heads T d_head."""
    n = q.shape[-2]
    if n <= window:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=window_mask(n, window, q.device), dropout_p=dropout)


def attend_plain(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Do what `attend` does, written out."""
    score = q @ k.mT / math.sqrt(q.shape[-1])
    mask = window_mask(q.shape[-2], window, q.device)
    return score.masked_fill(~mask, -torch.inf).softmax(dim=-1) @ v


def window_mask(n: int, window: int, device: torch.device) -> Tensor:
    """Give T T bool, true where a position (row) sees a position (column).

    >>> window_mask(3, 2, torch.device("cpu")).int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    place = torch.arange(n, device=device)
    apart = place[:, None] - place
    return (apart >= 0) & (apart < window)


def rotate(x: Tensor, place: Tensor) -> Tensor:
    """Rotate pairs of numbers by their event index (RoPE, Su et al., arXiv 2104.09864). x .. T d_head, place .. T."""
    half = x.shape[-1] // 2
    rate = torch.exp(torch.arange(half, device=x.device, dtype=torch.float32) * (-math.log(10_000.0) / half))
    angle = place[..., None].float() * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    one, two = x[..., :half], x[..., half:]
    return torch.cat([one * cos - two * sin, one * sin + two * cos], dim=-1)


class Linear(nn.Linear):
    """A linear layer that `BehaveGPT` draws: normal weights of standard deviation `std`, default 1 / sqrt(d_in)."""

    def __init__(self, d_in: int, d_out: int, *, bias: bool = False, std: float | None = None) -> None:
        super().__init__(d_in, d_out, bias=bias)
        self.std = d_in**-0.5 if std is None else std

    def reset_parameters(self) -> None:
        pass


class Table(nn.Embedding):
    """A table of vectors that `BehaveGPT` draws; row 0 (padding) is an ordinary row that no loss reaches."""

    def reset_parameters(self) -> None:
        pass


class Block(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x); no biases. 12 D^2 + 2 D weights."""

    def __init__(self, config: BehaveGPTConfig) -> None:
        super().__init__()
        d = config.d_model
        self.n_heads, self.rate, self.has_places = config.n_heads, config.dropout, config.positions == "rope"
        self.attention_norm, self.feed_norm = nn.RMSNorm(d), nn.RMSNorm(d)
        depth = math.sqrt(2 * config.n_blocks)  # so that the stream does not grow with the number of blocks
        self.project = Linear(d, 3 * d)
        self.out = Linear(d, d, std=d**-0.5 / depth)
        self.rise, self.fall = Linear(d, 4 * d), Linear(4 * d, d, std=(4 * d) ** -0.5 / depth)
        self.dropout = nn.Dropout(config.dropout)

    def keys_values(self, x: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """B T D -> queries, keys (both rotated) and values, B heads T d_head; `place` is T or B 1 T."""
        parts = self.project(self.attention_norm(x)).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        return (rotate(q, place), rotate(k, place), v) if self.has_places else (q, k, v)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Add what attention gave (B heads T d_head), then the feed-forward layer."""
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.fall(F.gelu(self.rise(self.feed_norm(x)))))


class Head(nn.Module):
    """Linear, GELU, Linear to the values of a field; or, tied, one Linear to a query of the field's table."""

    def __init__(self, d: int, n_rows: int, is_tied: bool) -> None:
        super().__init__()
        self.mix = Linear(d, d, bias=not is_tied, std=SMALL if is_tied else None)
        self.out = None if is_tied else Linear(d, n_rows - FIRST, bias=True, std=SMALL)

    def query(self, u: Tensor) -> Tensor:
        """.. D -> .. D."""
        return self.mix(u) if self.out is None else F.gelu(self.mix(u))

    def output(self, table: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight (n_rows D) and bias (n_rows); the rows of padding and unknown are zeros where they are not tied."""
        if self.out is None:
            assert table is not None
            return table, None
        return F.pad(self.out.weight, (0, 0, FIRST, 0)), F.pad(self.out.bias, (FIRST, 0))


class Link(nn.Module):
    """A step of the chain: its head, and how the drawn value is told to the next link, u' = norm(u + W value)."""

    def __init__(self, d: int, n_rows: int, is_tied: bool, d_value: int) -> None:
        super().__init__()
        self.head = Head(d, n_rows, is_tied)
        self.tell = Linear(d_value, d) if d_value else None
        self.norm = nn.RMSNorm(d) if d_value else None

    def next(self, u: Tensor, value: Tensor) -> Tensor:
        """u (.. D) and the drawn value's vectors (.. d_value) -> u' (.. D). The last link has no next."""
        assert self.tell is not None
        assert self.norm is not None
        return self.norm(u + self.tell(value))


class BehaveGPT(nn.Module):
    """Events in, one vector per event out, and heads that say what comes next. It knows no files and no loss.

    Parameters
    ----------
    config, shape
        What the user chose, and the fields that the data have.
    seed
        Of the first weights; the global random state is left as it was.

    Position t sees events t - window + 1 .. t. The chain draws the gap first; the clock fields of the next event follow
    from it and are told to the type head, and so on: `links` are its fields in order.

    Errors: `ConfigError` for a field that the shape lacks, or a head for a clock field.

    >>> shape = EventShape((("gap", 66), ("weekday", 9), ("slot", 50), ("type", 5)), 0, 128)
    >>> model = BehaveGPT(BehaveGPTConfig(size="tiny"), shape)
    >>> model.links, model(EventBatch.empty(n_fields=4)).shape
    (('gap', 'type'), torch.Size([0, 1, 64]))
    """

    Config = BehaveGPTConfig
    Shape = EventShape
    CALLED_BY: ClassVar = {"blocks": ("keys_values", "finish")}  # instead of forward; see `training.distributed.shard`

    def __init__(self, config: BehaveGPTConfig, shape: EventShape, seed: int = 0) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.window = config.window or shape.length
        names = [name for name, _ in shape.fields]
        self.inputs = _inputs(config, names)
        self.links = _links(names) if config.form == "joint" else ()
        for name in (*self.inputs, *config.plain):
            _check_field(name, names)
        d = config.d_model
        with torch.device("meta"):  # no draw and no initialisation here: `_initialise` does both
            needed = {
                *self.inputs,
                *self.links,
                *(CLOCK if self.links else ()),
                *(set(config.plain) & set(config.tied)),
            }
            self.tables = nn.ModuleDict({key(n): Table(shape.n_rows(n), self._width(n)) for n in names if n in needed})
            d_read = sum(self._width(name) for name in self.inputs)
            self.fuse = Linear(d_read, d) if d_read != d else None
            has_values = config.has_values and shape.n_amounts > 0
            self.values = Linear(shape.n_amounts, d) if has_values else None
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
            self.norm = nn.RMSNorm(d)
            self.plain = nn.ModuleDict({key(n): Head(d, shape.n_rows(n), n in config.tied) for n in config.plain})
            self.chain = nn.ModuleDict(
                {key(n): Link(d, shape.n_rows(n), n in config.tied, self._told_width(n)) for n in self.links}
            )
        self.to_empty(device="cpu")
        self._initialise(seed)

    def _width(self, name: str) -> int:
        return self.config.d_model if name in self.config.tied else self.config.d_field

    def _told(self, name: str) -> tuple[str, ...]:
        """The fields that are known once `name` is drawn: a gap also sets the clock."""
        clock = tuple(n for n, _ in self.shape.fields if n in CLOCK)
        return (name, *clock) if name == "gap" else (name,)

    def _told_width(self, name: str) -> int:
        is_last = self.links.index(name) == len(self.links) - 1
        return 0 if is_last else sum(self._width(n) for n in self._told(name))

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Normal weights, zero biases; tables have rows of length about 1."""
        draw = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, Linear):
                module.weight.normal_(0.0, module.std, generator=draw)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, module.embedding_dim**-0.5, generator=draw)
            elif isinstance(module, nn.RMSNorm):
                module.reset_parameters()

    # the past ------------------------------------------------------------------------------------------------------

    def forward(self, batch: EventBatch) -> Tensor:
        """Give a vector per event, B T D: what is known of a user once that event has happened."""
        return self.encode(batch.ids, batch.amount)

    def encode(self, ids: Tensor, amount: Tensor | None = None) -> Tensor:
        """B T n_fields, and B T n_amounts where values are read -> B T D."""
        x, place = self.embed_events(ids, amount), torch.arange(ids.shape[1], device=ids.device)
        for block in self.blocks:
            rate = block.rate if self.training else 0.0  # pyright: ignore
            x = block.finish(x, attend(*block.keys_values(x, place), self.window, rate))  # pyright: ignore
        return self.norm(x)

    def embed_events(self, ids: Tensor, amount: Tensor | None = None) -> Tensor:
        """.. n_fields, .. n_amounts -> .. D: one vector per field, side by side."""
        x = torch.cat([self.tables[key(n)](ids[..., self.shape.column(n)]) for n in self.inputs], dim=-1)
        x = x if self.fuse is None else self.fuse(x)
        if self.values is not None:
            assert amount is not None  # nothing is drawn in the form that reads values
            x = x + self.values(amount)
        return self.dropout(x)

    def prefill(self, ids: Tensor, length: Tensor) -> tuple[Tensor, Cache]:
        """Read whole pasts (B T n_fields, events in the first `length` places): the last vector B D, and a cache."""
        n_rows, n = ids.shape[:2]
        x, place = self.embed_events(ids), torch.arange(n, device=ids.device)
        ring = torch.arange(self.window, device=ids.device)
        at = (
            length[:, None] - 1 - (length[:, None] - 1 - ring) % self.window
        )  # the last event of each place of the ring
        index = at.clamp(min=0)[:, None, :, None]
        shape = (len(self.blocks), n_rows, self.config.n_heads, self.window, self.config.d_model // self.config.n_heads)
        cache = Cache(x.new_zeros(shape), x.new_zeros(shape), length.clone())
        for i, block in enumerate(self.blocks):
            q, k, v = block.keys_values(x, place)  # pyright: ignore
            wide = index.expand(-1, k.shape[1], -1, k.shape[3])
            cache.keys[i], cache.values[i] = k.gather(2, wide), v.gather(2, wide)
            x = block.finish(x, attend(q, k, v, self.window))  # pyright: ignore
        return self.norm(x[torch.arange(n_rows), length - 1]), cache

    def step(self, ids: Tensor, cache: Cache) -> Tensor:
        """Read one more event per row (B n_fields), change the cache in place, give its vector B D.

        The same as `encode` of everything read so far, at the last position. Do not use it in training mode.
        """
        x = self.embed_events(ids)[:, None]
        rows, at = torch.arange(len(ids), device=ids.device), cache.length % self.window
        n_kept = (cache.length + 1).clamp(max=self.window)
        n_read = int(n_kept.max()) if len(ids) else 0
        mask = (torch.arange(n_read, device=ids.device) < n_kept[:, None])[:, None, None, :]
        for i, block in enumerate(self.blocks):
            q, k, v = block.keys_values(x, cache.length[:, None, None])  # pyright: ignore
            cache.keys[i][rows, :, at], cache.values[i][rows, :, at] = k[:, :, 0], v[:, :, 0]
            seen = cache.keys[i][:, :, :n_read], cache.values[i][:, :, :n_read]
            x = block.finish(x, F.scaled_dot_product_attention(q, *seen, attn_mask=mask))  # pyright: ignore
        cache.length += 1
        return self.norm(x[:, 0])

    def embed(self, batch: EventBatch) -> Tensor:
        """Give a user as the vector of the last event, B D."""
        return self(batch)[torch.arange(len(batch), device=batch.length.device), batch.length - 1]

    # what comes next -----------------------------------------------------------------------------------------------

    def query(self, hidden: Tensor, field: str) -> Tensor:
        """Give what is compared with the rows of `output(field)`: .. D -> .. W, without knowing the next gap."""
        return self._plain(field).query(hidden)

    def output(self, field: str) -> tuple[Tensor, Tensor | None]:
        """Give weight (n_rows W) and bias (n_rows, or None); rows 0 and 1 are never predicted."""
        return self._plain(field).output(self._table(field))

    def scores(self, batch: EventBatch, field: str) -> Tensor:
        """Give logits of what follows the last event of each row, B n_rows; padding and unknown are -inf."""
        return _logits(self._plain(field), self._table(field), self.embed(batch))

    def chain_logits(self, u: Tensor, field: str) -> Tensor:
        """Give the logits of a link (.. n_rows) from its u (.. D); u of the first link is `forward`'s vector.

        Of a gap, id 1 is an outcome too, never (see `tokens.gaps`): its logit is 0, and all others are told from there.
        """
        return _logits(self._link(field).head, self._table(field), u, NEVER if field == "gap" else FIRST)

    def chain_tell(self, u: Tensor, field: str, ids: Tensor) -> Tensor:
        """Tell the next link what was drawn: `ids` (.. n_fields) holds `field`, and the clock after a gap. Gives u'."""
        value = torch.cat([self.tables[key(n)](ids[..., self.shape.column(n)]) for n in self._told(field)], dim=-1)
        return self._link(field).next(u, value)

    def _link(self, field: str) -> Link:
        if field not in self.links:
            raise ConfigError(f"a link out of: {', '.join(self.links) or 'none'}", repr(field), fix="form = 'joint'")
        return self.chain[key(field)]  # pyright: ignore

    def _plain(self, field: str) -> Head:
        if field not in self.config.plain:
            there = ", ".join(self.config.plain) or "none"
            raise ConfigError(f"a plain head out of: {there}", repr(field), where="model.plain", fix=f"add {field!r}")
        return self.plain[key(field)]  # pyright: ignore

    def _table(self, field: str) -> Tensor | None:
        return self.tables[key(field)].weight if field in self.config.tied else None  # pyright: ignore

    def flops(self, n_kept: float) -> float:
        """Estimate the operations of one forward pass of a row of `n_kept` events, heads included."""
        d = self.config.d_model
        heads = sum(p.numel() for m in (self.plain, self.chain) for p in m.parameters() if p.ndim == 2)
        heads += sum(self.shape.n_rows(n) * d for n in (*self.config.plain, *self.links) if n in self.config.tied)
        fuse = self.fuse.weight.numel() if self.fuse is not None else 0
        block = 12 * d * d + 2 * min(n_kept, self.window) * d
        return 2 * n_kept * (fuse + self.config.n_blocks * block + heads)


def key(field: str) -> str:
    """Give the name of a field's module: a field may be called `type`, a module may not."""
    return f"of_{field}"


def _logits(head: Head, table: Tensor | None, u: Tensor, first: int = FIRST) -> Tensor:
    logits = F.linear(head.query(u), *head.output(table))
    return logits.masked_fill(torch.arange(logits.shape[-1], device=logits.device) < first, -torch.inf)


def _inputs(config: BehaveGPTConfig, names: list[str]) -> tuple[str, ...]:
    if config.inputs or config.form == "joint":
        return config.inputs or tuple(names)
    return tuple(name for name in PAPER if name in names) or tuple(names)


def _links(names: list[str]) -> tuple[str, ...]:
    """The order of the chain: gap, type, item, place, then the other fields as they come."""
    if "gap" not in names:
        raise ConfigError("a field 'gap' for the chain", ", ".join(names), where="model.form", fix="form = 'paper'")
    first = [name for name in ("gap", "type", "item", "place") if name in names]
    return (*first, *(name for name in names if name not in first and name not in CLOCK))


def _check_field(name: str, names: list[str]) -> None:
    if name not in names:
        meant = nearest(name, names)
        fix = f"did you mean {meant!r}?" if meant else ""
        raise ConfigError(f"a field out of: {', '.join(names)}", repr(name), where="model", fix=fix)
