"""Gates: weights that sum to 1, the same for a user in any company, and told apart from each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from habitus.apps.ilora.gate import Gate, GateConfig, gate_use, gate_warnings

KEYS = np.array([3, 9, 27, 81, 243], np.uint64)
NAMES = ("linear", "mlp", "resnet", "uniform", "random", "random_input")
COUNTS = {"linear": 260, "mlp": 8836, "resnet": 90_772, "uniform": 0, "random": 0, "random_input": 260}


def stirred(name: str, **more) -> Gate:
    gate = Gate(GateConfig(name=name, **more), d=64, n_experts=4)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in gate.parameters():
            p.add_(torch.randn(p.shape, generator=draw) * 0.2)
    return gate.eval()


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_specification(name: str):
    assert sum(p.numel() for p in Gate(GateConfig(name=name), d=64, n_experts=4).parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("random",)])
def test_a_new_gate_weighs_all_experts_alike(name: str):
    weights = Gate(GateConfig(name=name), d=64, n_experts=4)(torch.randn(5, 64), KEYS)
    assert torch.equal(weights, torch.full((5, 4), 0.25))


@pytest.mark.parametrize("name", NAMES)
def test_weights_sum_to_one_and_do_not_depend_on_the_batch(name: str):
    gate, state = stirred(name), torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = gate(state, KEYS)
        alone = torch.cat([gate(state[i : i + 1], KEYS[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(5))
    torch.testing.assert_close(whole, alone)
    differ = (whole - whole[:1]).abs().max() > 1e-5
    assert bool(differ) == (name != "uniform")


def test_random_gates_know_the_user_and_the_seed_and_nothing_of_the_state():
    for name in ("random", "random_input"):
        one, other = stirred(name, seed=1), stirred(name, seed=2)
        a, b = (one(torch.randn(5, 64), KEYS) for _ in range(2))
        assert torch.equal(a, b)
        assert not torch.allclose(a, other(torch.zeros(5, 64), KEYS))


def test_a_gate_learns_which_half_a_state_lies_in():
    gate, draw = Gate(GateConfig(), d=8, n_experts=2), torch.Generator().manual_seed(0)
    state = torch.randn(256, 8, generator=draw)
    goal = (state[:, 0] > 0).long()
    stepper = torch.optim.Adam(gate.parameters(), lr=0.1)
    for _ in range(100):
        loss = torch.nn.functional.nll_loss(gate(state, np.zeros(256, np.uint64)).log(), goal)
        stepper.zero_grad()
        loss.backward()
        stepper.step()
    use = gate_use(gate(state, np.zeros(256, np.uint64)).detach().numpy(), goal.numpy())
    assert use["information"] > 0.3
    assert use["effective"] > 1.8
    assert use["per_user_entropy"] < 0.4


def test_use_that_looks_wrong_is_said():
    lazy = gate_use(np.full((10, 4), 0.25))
    assert any("hardly differ" in line for line in gate_warnings(lazy))
    starved = gate_use(np.eye(4)[np.zeros(10, int)] * 0.9 + 0.025)
    assert sum("share" in line for line in gate_warnings(starved)) == 4


def test_batch_norm_is_there_for_parity():
    gate = Gate(GateConfig(name="resnet", norm="batch"), d=64, n_experts=4)
    assert sum(isinstance(m, torch.nn.BatchNorm1d) for m in gate.modules()) == 19
