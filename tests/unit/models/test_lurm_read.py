"""Reading without gradients gives the sums of training, by whichever of its ways."""

import numpy as np
import pytest
import torch

from habitus.models import lurm_read
from habitus.models.lurm import Lurm, LurmConfig, shape_of
from habitus.tokens.bags import make_bags
from habitus.tokens.counts import summed

V = 40


class Ideas:
    n = V
    idf = np.linspace(0.5, 3, V, dtype=np.float32)


@pytest.mark.parametrize(("dense", "wide"), [(0, 1 << 24), (10**6, 1 << 24), (0, 1)])
@pytest.mark.parametrize("mass", ["energy", "share"])
def test_every_way_of_reading_gives_what_training_sums(
    monkeypatch: pytest.MonkeyPatch, dense: int, wide: int, mass: str
):
    draw = np.random.default_rng(0)
    user, block, interest = (draw.integers(0, top, 500) for top in (5, 30, V))
    one = np.ones(500, np.int64)
    counts = summed("v", 6, user, block.astype(np.int32), one * 0, interest, one, one * 0)  # user 5 has nothing
    config = LurmConfig.parse({"size": "tiny", "scales": "1x4, 4x3, life", "start": "random", "mass": mass})
    model = Lurm(config, shape_of(config, V)).eval()
    bags = make_bags(counts, Ideas, np.arange(6), scales=config.scales)  # type: ignore[arg-type]
    expected = model(bags)
    monkeypatch.setattr(lurm_read, "DENSE", dense)
    monkeypatch.setattr(lurm_read, "WIDE", wide)
    with torch.no_grad():
        read = model(bags)
    torch.testing.assert_close(read.flat, expected.flat.detach(), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(read.mass, expected.mass.detach(), atol=2e-6, rtol=1e-5)


def test_few_of_many_ids_are_sorted_and_many_of_few_are_marked():
    ids = torch.tensor([7, 2, 7, 9])
    for n in (10, 10**6):
        found, place = lurm_read.distinct(ids, n)
        assert found.tolist() == [2, 7, 9]
        assert found[place].tolist() == ids.tolist()
