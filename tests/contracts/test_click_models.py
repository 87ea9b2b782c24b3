"""The three models of clicks keep the contract of models, and what is special to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from habitus.models.ctr_mlp import CtrMLP, CtrMLPConfig
from habitus.models.din import DIN, DINConfig
from habitus.models.layers.click import GAP, REPEATS, RUN, ClickBatch, ClickShape
from habitus.models.time_bst import TimeBST, TimeBSTConfig
from habitus.testing.contracts import ModelContract
from habitus.testing.threads import one_thread  # noqa: F401

SHAPE = ClickShape((6, 4, 3), 5, 12, 9, 4)
SIZES = (12, 9, 4, 32, 12, 8, 16)


def click_batch(n: int, seed: int = 0, n_tokens: int = 20) -> ClickBatch:
    draw = torch.Generator().manual_seed(seed)
    length = torch.randint(0, n_tokens + 1, (n, 1), generator=draw)
    if n:
        length[0] = 0  # a user without a history
    is_padding = torch.arange(n_tokens) < n_tokens - length
    tokens = torch.stack([torch.randint(0, size, (n, n_tokens), generator=draw) for size in SIZES], -1)
    static = torch.stack([torch.randint(0, size, (n,), generator=draw) for size in SHAPE.static_sizes], -1)
    target = torch.stack([torch.randint(0, size, (n,), generator=draw) for size in SIZES[:2]], -1)
    dense = torch.randn(n, SHAPE.n_dense, generator=draw)
    label = (torch.rand(n, generator=draw) < 0.4).float()
    offset = torch.randn(n, generator=draw)
    return ClickBatch(tokens.masked_fill(is_padding[..., None], 0), is_padding, static, dense, target, label, offset)


def wake(model: Any) -> Any:
    """Give weights that start at zero a value, so that what they do can be seen."""
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw) * 0.1)
    return model.eval()


class ClickContract(ModelContract):
    def batch(self, n: int, seed: int = 0) -> ClickBatch:
        return click_batch(n, seed)

    def test_more_padding_changes_nothing(self) -> None:
        model, batch = wake(self.make()), click_batch(6, n_tokens=12)
        wider = replace(
            batch,
            tokens=torch.nn.functional.pad(batch.tokens, (0, 0, 8, 0)),
            is_padding=torch.nn.functional.pad(batch.is_padding, (8, 0), value=True),
        )
        torch.testing.assert_close(self.run(model, wider)[0], self.run(model, batch)[0], rtol=1e-5, atol=1e-5)

    def test_what_lies_under_padding_is_not_read(self) -> None:
        model, batch = wake(self.make()), click_batch(6)
        assert batch.is_padding.any()
        noise = click_batch(6, seed=5).tokens
        other = replace(batch, tokens=torch.where(batch.is_padding[..., None], noise, batch.tokens))
        torch.testing.assert_close(self.run(model, other)[0], self.run(model, batch)[0], rtol=1e-5, atol=1e-5)

    def test_the_history_is_read(self) -> None:
        model, batch = wake(self.make()), click_batch(6)
        other = replace(batch, tokens=click_batch(6, seed=5).tokens.masked_fill(batch.is_padding[..., None], 0))
        assert not torch.allclose(self.run(model, other)[0], self.run(model, batch)[0])


class TestCtrMLP(ClickContract):
    def make(self, seed: int = 0) -> CtrMLP:
        return CtrMLP(CtrMLPConfig(size="tiny"), SHAPE, seed=seed)

    def test_order_is_not_read(self) -> None:
        model, batch = wake(self.make()), click_batch(6)
        other = replace(batch, tokens=batch.tokens.flip(1), is_padding=batch.is_padding.flip(1))
        torch.testing.assert_close(self.run(model, other)[0], self.run(model, batch)[0], rtol=1e-5, atol=1e-5)


class TestDIN(ClickContract):
    def make(self, seed: int = 0) -> DIN:
        return DIN(DINConfig(size="tiny"), SHAPE, seed=seed)

    def test_the_layer_in_parts_is_the_layer_on_the_joined_vectors(self) -> None:
        model, batch = wake(self.make()), click_batch(4)
        token, ad = model.tables.history(batch.tokens), model.tables.ad(batch.target)
        thing, ad = token[..., :16], ad[:, None].expand(-1, 20, -1)
        joined = torch.cat([token, ad, thing - ad, thing * ad], -1)
        layers = (model.of_token, model.of_ad, model.of_gap, model.of_product)
        weight = torch.cat([layer.weight for layer in layers], 1)
        whole = torch.nn.functional.linear(joined, weight, model.of_token.bias)
        parts = model.of_token(token) + model.of_ad(ad) + model.of_gap(thing - ad) + model.of_product(thing * ad)
        torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)

    def test_equal_tokens_add_up(self) -> None:
        """No softmax: two equal tokens give twice the interest of one."""
        model, batch = wake(self.make()), click_batch(1, n_tokens=20)
        seen: list[torch.Tensor] = []
        model.tower.forward = lambda _, read: (seen.append(read[0]), torch.zeros(1))[1]  # type: ignore[method-assign]
        token = torch.tensor([[[3, 2, 1, 5, 5, 1, 1]]])
        for n in (1, 2):
            model(replace(batch, tokens=token.repeat(1, n, 1), is_padding=torch.zeros(1, n, dtype=torch.bool)))
        torch.testing.assert_close(seen[1], 2 * seen[0])
        assert seen[0].abs().max() > 0


class TestTimeBST(ClickContract):
    def make(self, seed: int = 0, **options: bool) -> TimeBST:
        return TimeBST(TimeBSTConfig(size="tiny", **options), SHAPE, seed=seed)

    def test_without_gap_run_and_repeats_it_is_the_plain_one(self) -> None:
        batch = click_batch(6)
        zeroed = batch.tokens.clone()
        zeroed[..., [GAP, RUN, REPEATS]] = 0
        timed, plain = wake(self.make()), wake(self.make(is_timed=False))
        expected = self.run(plain, batch)[0]
        torch.testing.assert_close(self.run(timed, replace(batch, tokens=zeroed))[0], expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(self.run(timed, batch)[0], expected)

    @pytest.mark.parametrize("option", ["has_bias", "is_causal"])
    def test_ablations_change_the_answer(self, option: str) -> None:
        batch = click_batch(6)
        other = wake(self.make(**{option: option == "is_causal"}))
        found = self.run(other, batch)[0]
        assert bool(torch.isfinite(found).all())
        assert not torch.allclose(found, self.run(wake(self.make()), batch)[0])
