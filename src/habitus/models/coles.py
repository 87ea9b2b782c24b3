"""A contrastive GRU over a user's newest baskets of interests: the comparator of LURM.

After CoLES (Babaev et al. 2022): a recurrent encoder of a sequence, two slices of one user being the positive pair.
Here a step is a window of the finest scale, so that it reads the same bags as LURM and is trained by the same road.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from habitus.core.config import Config
from habitus.core.errors import ConfigError
from habitus.models.layers.catalogue import lookup
from habitus.models.lurm import GruTime, LurmOutput, LurmShape
from habitus.tokens.bags import Bags, parse_scales


class ColesConfig(Config):
    """What the user chooses: one scale of windows, the width of a step and of the vector.

    >>> ColesConfig().d_flat
    256
    """

    scales: str = "1x104"
    top: int = Field(512, gt=0)
    d_model: int = Field(64, gt=0)
    d_out: int = Field(256, gt=0)

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """D, M, R, P as LURM has them: one anchor."""
        return self.d_model, 1, 1, self.d_out

    @property
    def d_flat(self) -> int:
        """Width of the vector."""
        return self.d_out

    @property
    def d_content(self) -> int:
        """All of it is trained."""
        return self.d_out


class Coles(nn.Module):
    """Bags of one scale in, one vector of unit length out; the same outputs as LURM with one anchor.

    Users without a window that holds something share a vector.

    >>> from habitus.models.lurm import LurmShape
    >>> Coles(ColesConfig(scales="1x8", d_out=16), LurmShape(50, (8,))).out.weight.shape
    torch.Size([16, 64])
    """

    Config = ColesConfig
    Shape = LurmShape

    def __init__(self, config: ColesConfig, shape: LurmShape, seed: int = 0) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.scales = parse_scales(config.scales)
        if len(self.scales) != 1 or (self.scales[0].windows,) != tuple(shape.windows):
            raise ConfigError("one scale, such as '1x104', of the shape's windows", config.scales, where="scales")
        d = config.d_model
        with torch.device("meta"):  # drawn below
            self.table = nn.Parameter(torch.empty(shape.n_interests, d))
            self.told = nn.Linear(2, d)
            self.over_time = GruTime(d)
            self.out = nn.Linear(d, config.d_out)
        self.to_empty(device="cpu")
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                scale = 1.0 if name == "table" else weight.shape[-1] ** -0.5
                weight.normal_(0, scale, generator=draw)

    def forward(self, bags: Bags) -> LurmOutput:
        """Give the vectors of B users."""
        (scale,) = bags.scales
        ids, inverse = scale.interest.unique(return_inverse=True)
        rows = lookup(ids, self.table)
        held = F.embedding_bag(inverse, rows, scale.offset[:-1], mode="sum", per_sample_weights=scale.weight)
        told = self.told(torch.stack([scale.log1p_n, scale.log_age], dim=-1))
        step = held.view_as(told) + told
        whole = self.out(self.over_time(step[:, :, None], scale.is_empty))  # B 1 P
        vectors: Tensor = F.normalize(whole, dim=-1, eps=1e-8)
        return LurmOutput(vectors, torch.ones_like(whole[..., 0]), vectors.flatten(1))
