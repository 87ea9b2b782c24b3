"""Averages of weights."""

import pytest
import torch

from habitus.training.averaging import Average


def walk(average: Average, weights: list[torch.Tensor], n: int, seed: int = 0) -> list[torch.Tensor]:
    """Move the weights n times; give the path."""
    draw, path = torch.Generator().manual_seed(seed), []
    for _ in range(n):
        weights[0].add_(torch.randn(3, generator=draw))
        average.after_step(weights)
        average.after_epoch(weights)
        path.append(weights[0].clone())
    return path


def test_ema_is_the_recursion_with_a_short_memory_at_first() -> None:
    average, weights = Average("ema", decay=0.9, n_epochs=1), [torch.zeros(3)]
    path = walk(average, weights, 200)
    wanted = path[0]
    for n, value in enumerate(path[1:], start=2):
        decay = min(0.9, (1 + n) / (10 + n))
        wanted = decay * wanted + (1 - decay) * value
    average.swap(weights)
    torch.testing.assert_close(weights[0], wanted)


def test_last_is_the_mean_of_the_last_epochs() -> None:
    average, weights = Average("last", decay=0.0, n_epochs=3), [torch.zeros(3)]
    path = walk(average, weights, 7)
    average.swap(weights)
    torch.testing.assert_close(weights[0], torch.stack(path[-3:]).mean(dim=0))


@pytest.mark.parametrize("kind", ["none", "ema", "last"])
def test_swapping_twice_gives_the_same_bits_back(kind: str) -> None:
    average, weights = Average(kind, decay=0.9, n_epochs=2), [torch.zeros(3)]
    last = walk(average, weights, 5)[-1]
    average.swap(weights)
    assert torch.equal(weights[0], last) is (kind == "none")
    average.swap(weights)
    assert torch.equal(weights[0], last)


@pytest.mark.parametrize("kind", ["ema", "last"])
def test_a_loaded_state_goes_on_as_if_nothing_happened(kind: str) -> None:
    one, weights = Average(kind, decay=0.9, n_epochs=2), [torch.zeros(3)]
    walk(one, weights, 4)
    two, others = Average(kind, decay=0.9, n_epochs=2), [weights[0].clone()]
    two.load_state_dict(one.state_dict(), others)
    walk(one, weights, 3, seed=1)
    walk(two, others, 3, seed=1)
    one.swap(weights)
    two.swap(others)
    assert torch.equal(weights[0], others[0])
