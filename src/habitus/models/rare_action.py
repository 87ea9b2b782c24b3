"""The network of the rare actions: text and numbers, each weighed by a gate that reads both.

text d -> 256, numbers m (standardised) -> 64, persona -> 16; g = sigmoid(W [text; other]); h = g * A text + (1 - g) * B
other -> 128 -> actions. After the hybrid of arXiv 2511.17241, whose sizes and fusion are not disclosed: these are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from habitus.core.config import Config


class RareActionConfig(Config):
    """Sizes. `n_personas` counts the ones known; any other persona has the vector 0 of the table.

    >>> RareActionConfig(d_in=8, n_numbers=3, n_personas=2, n_actions=10).width
    128
    """

    d_in: int
    n_numbers: int
    n_personas: int
    n_actions: int
    d_text: int = 256
    d_numbers: int = 64
    d_persona: int = 16
    width: int = 128
    dropout: float = 0.3


class RareAction(nn.Module):
    """text [B, d], numbers [B, m], persona int64 [B] (0: unknown) -> logits [B, actions].

    >>> model = RareAction(RareActionConfig(d_in=8, n_numbers=3, n_personas=2, n_actions=10))
    >>> model(torch.zeros(4, 8), torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)).shape
    torch.Size([4, 10])
    """

    def __init__(self, config: RareActionConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.text = nn.Sequential(nn.Linear(config.d_in, config.d_text), nn.GELU(), nn.Dropout(config.dropout))
            self.numbers = nn.Sequential(nn.Linear(config.n_numbers, config.d_numbers), nn.GELU())
            self.persona = nn.Embedding(config.n_personas + 1, config.d_persona)
            d_other = config.d_numbers + config.d_persona
            self.gate = nn.Linear(config.d_text + d_other, config.width)
            self.from_text = nn.Linear(config.d_text, config.width)
            self.from_other = nn.Linear(d_other, config.width)
            self.out = nn.Sequential(
                nn.GELU(), nn.Dropout(config.dropout), nn.Linear(config.width, config.width), nn.GELU(),
                nn.Dropout(config.dropout), nn.Linear(config.width, config.n_actions),
            )  # fmt: skip

    def forward(self, text: Tensor, numbers: Tensor, persona: Tensor) -> Tensor:
        known = self.text(text)
        other = torch.cat([self.numbers(numbers), self.persona(persona)], dim=-1)
        gate = torch.sigmoid(self.gate(torch.cat([known, other], dim=-1)))
        return self.out(gate * self.from_text(known) + (1 - gate) * self.from_other(other))
