"""Time-aware behaviour Transformer: what was touched, when, and how often; the ad is the last token.

Sources: Chen et al., "Behavior Sequence Transformer", arXiv 1905.06874; time and frequency as in the public summary of
arXiv 2511.21963, whose encodings are not disclosed: those here are ours. So is the field that says whether a token has
the ad's category and brand; it enters the token and the attention bias.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from habitus.models.layers.catalogue import lookup
from habitus.models.layers.click import (
    GAP,
    HOUR,
    KIND,
    N_GAPS,
    N_HOURS,
    N_REPEATS,
    N_RUNS,
    REPEATS,
    RUN,
    ClickBatch,
    ClickNetConfig,
    ClickShape,
    Tables,
    Tower,
    drawn_from,
    same,
)

_SIZES = {"tiny": (32, 1, 2), "small": (64, 1, 4), "base": (96, 1, 4), "large": (192, 2, 8)}


class TimeBSTConfig(ClickNetConfig):
    """What the user chooses: see `ClickNetConfig`.

    `is_timed = False` is the plain BST: gap, run and repeats are not read. `has_bias = False` takes the gap out of the
    attention bias only; `is_causal` lets a token see earlier ones only. Ablations, all three.

    >>> TimeBSTConfig(size="large").sizes
    (192, 2, 8)
    """

    attention_dropout: float = Field(0.2, ge=0, lt=1)
    is_timed: bool = True
    has_bias: bool = True
    is_causal: bool = False

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Width D, layers, heads."""
        return _SIZES[self.size]


class Block(nn.Module):
    """x + attention(norm x) with an additive bias, then x + feed(norm x)."""

    def __init__(self, d: int, n_heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.n_heads, self.attention_dropout = n_heads, attention_dropout
        self.attention_norm, self.feed_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.ask, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.rise, self.fall = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        parts = self.ask(self.attention_norm(x)).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        share = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*parts.unbind(0), attn_mask=bias, dropout_p=share)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.fall(F.relu(self.rise(self.feed_norm(x)))))


class TimeBST(nn.Module):
    """Seven fields a token and learned positions, bias by gap, state of the ad and mean of the tokens -> logit B.

    >>> TimeBST(TimeBSTConfig(size="tiny"), ClickShape((5, 3), 2, 10, 10, 5)).position.shape
    torch.Size([21, 32])
    """

    Config, Shape = TimeBSTConfig, ClickShape

    def __init__(self, config: TimeBSTConfig, shape: ClickShape, *, seed: int = 0) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        d, n_layers, n_heads = config.sizes
        w = config.width
        with drawn_from(seed):
            self.tables = Tables(shape, w)
            self.fields = nn.ParameterList(torch.randn(n, w) * w**-0.5 for n in (N_GAPS, N_HOURS, N_RUNS, N_REPEATS))
            self.join = nn.Linear(7 * w, d)
            self.same = nn.Parameter(torch.randn(4, d) * 0.5)
            self.position = nn.Parameter(torch.randn(config.tokens + 1, d) * 0.02)
            self.gap_bias = nn.Parameter(torch.zeros(N_GAPS, n_heads))
            # begins by looking at what has the ad's category: a lone uniform look over 50 tokens learns that late
            self.same_bias = nn.Parameter(torch.tensor([0.0, 0.5, 2.0, 2.0])[:, None].repeat(1, n_heads))
            self.blocks = nn.ModuleList(
                Block(d, n_heads, config.dropout, config.attention_dropout) for _ in range(n_layers)
            )
            self.norm = nn.LayerNorm(d)
            self.tower = Tower(shape, config, 2 * d + 1 + 2 * w)

    def forward(self, batch: ClickBatch) -> Tensor:
        tokens, hidden_from = self._with_ad(batch)
        match = F.pad((same(batch) @ tokens.new_tensor([2.0, 1.0], dtype=torch.float32)).long(), (0, 1), value=3)
        when = tokens[..., [GAP, HOUR, RUN, REPEATS]]
        if not self.config.is_timed:
            when = when * when.new_tensor([0, 1, 0, 0])
        parts = [self.tables.history(tokens), *(lookup(when[..., j], t) for j, t in enumerate(self.fields))]
        x = self.join(torch.cat(parts, -1)) + self.position[-tokens.shape[1] :] + self.same[match]
        bias = self.same_bias[match]
        if self.config.is_timed and self.config.has_bias:
            bias = bias + self.gap_bias[when[..., 0]]
        mask = bias.transpose(1, 2).masked_fill(hidden_from[:, None], -torch.inf)[:, :, None]  # B heads 1 T+1
        mask = mask.expand(-1, -1, tokens.shape[1], -1)
        if self.config.is_causal:
            later = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=x.device).triu(1)
            own = torch.eye(tokens.shape[1], dtype=torch.bool, device=x.device)
            mask = mask.masked_fill(later, -torch.inf).masked_fill(own, 0.0)  # padding sees itself: no empty row
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        is_token = (~batch.is_padding).float()
        n = is_token.sum(1, keepdim=True)
        mean = (is_token[:, None] @ x[:, :-1])[:, 0] / n.clamp(min=1)
        return self.tower(batch, [x[:, -1], mean, n.log1p() / 4, self.tables.ad(batch.target)])

    def _with_ad(self, batch: ClickBatch) -> tuple[Tensor, Tensor]:
        """Tokens with the ad as the last one, B T+1 7 (a kind of its own, gap and the rest 0), and what is padding."""
        ad = F.pad(batch.target, (0, batch.tokens.shape[-1] - 2))[:, None]
        ad[..., KIND] = self.shape.n_kinds
        return torch.cat([batch.tokens, ad], 1), F.pad(batch.is_padding, (0, 1), value=False)

    def touched(self, batch: ClickBatch) -> list[tuple[Tensor, Tensor]]:
        """List (table, ids read by the batch), for the penalty on rows."""
        return [*self.tables.touched(batch), *self.tower.touched(batch)]
