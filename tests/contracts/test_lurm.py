"""LURM's encoder: users apart, gates that sum to one, the written-out sum, and views that share no event."""

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from habitus.core.errors import ConfigError
from habitus.models.lurm import Lurm, LurmConfig, LurmOutput, shape_of
from habitus.models.lurm_start import start_from_bags, start_rhythm
from habitus.testing.threads import one_thread
from habitus.tokens.bags import Bags, Rows, bags_of_rows, parse_scales

__all__ = ["one_thread"]

SCALES = "1x3, 2x4, life"
V = 60
FORMS = [
    {},
    {"time": "attention"},
    {"time": "mean"},
    {"paper_form": True},
    {"mass": "none"},
    {"n_anchors": 1, "d_out": 32},
]


def bags(n: int = 7, seed: int = 0, permutation: np.ndarray | None = None) -> Bags:
    """Random histories; the last user has none."""
    draw = np.random.default_rng(seed)
    user, block, interest = (draw.integers(0, top, 40 * n) for top in (max(n - 1, 1), 12, V))
    if n < 2:
        user = user[:0]
    block, interest = block[: len(user)], interest[: len(user)]
    interest = interest if permutation is None else permutation[interest]
    idf = np.linspace(0.5, 2, V)
    idf = idf if permutation is None else idf[np.argsort(permutation)]
    rows = Rows(user, block, interest, draw.integers(1, 4, len(user)))
    return bags_of_rows(rows, n, np.full(n, 11), idf, parse_scales(SCALES))


def made(seed: int = 0, **values: object) -> Lurm:
    config = LurmConfig.parse({"size": "tiny", "scales": SCALES, "rhythm": 0.0, **values})
    return Lurm(config, shape_of(config, V), seed=seed).eval()


def run(model: Lurm, batch: Bags) -> LurmOutput:
    with torch.no_grad():
        return model(batch)


def close(one: LurmOutput, two: LurmOutput) -> None:
    for a, b in zip(vars(one).values(), vars(two).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def rows_of(output: LurmOutput, rows: Tensor) -> LurmOutput:
    return LurmOutput(*(value[rows] for value in vars(output).values()))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_vectors_do_not_depend_on_company_order_or_size_of_the_batch(form: dict):
    model, batch = made(**form), bags()
    whole = run(model, batch)
    order = torch.tensor([4, 6, 0, 2])
    close(run(model, batch.take(order)), rows_of(whole, order))
    for row in range(7):
        close(run(model, batch.take(torch.tensor([row]))), rows_of(whole, torch.tensor([row])))
    assert not torch.allclose(whole.flat[0], whole.flat[1], atol=1e-3)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_lengths_are_one_and_masses_sum_to_one(form: dict):
    for n in (0, 1, 7):  # the user of 1 and the last of 7 have no event
        output = run(made(**form), bags(n))
        assert output.flat.shape == (n, made(**form).config.d_flat)
        torch.testing.assert_close(output.flat.norm(dim=1), torch.ones(n))
        torch.testing.assert_close(output.mass.sum(dim=1), torch.ones(n))
        torch.testing.assert_close(output.vectors.norm(dim=2), torch.ones(output.mass.shape))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_weight_has_a_gradient(form: dict):
    model = made(**form).train()
    output = model(bags())
    draw = torch.Generator().manual_seed(0)
    (output.flat * torch.randn(output.flat.shape, generator=draw)).sum().backward()
    silent = [name for name, w in model.named_parameters() if w.grad is None or not bool((w.grad != 0).any())]
    allowed = {"gate.weight", "aspect"} if model.config.widths[1] == 1 else set()
    assert set(silent) <= allowed
    assert all(bool(torch.isfinite(w.grad).all()) for w in model.parameters() if w.grad is not None)


def test_anchors_are_the_written_out_sum_with_its_gradients():
    model, batch = made(), bags()
    summed, _ = model.anchored(batch)
    gate = model.gates(model.table)
    torch.testing.assert_close(gate.sum(dim=1), torch.ones(V))
    for scale, found in zip(batch.scales, summed, strict=True):
        bag = torch.repeat_interleave(torch.arange(scale.is_empty.numel()), scale.offset.diff())
        x = torch.zeros(scale.is_empty.numel(), V).index_put((bag, scale.interest), scale.weight)
        written = torch.einsum("bv,vm,vd->bmd", x, gate, model.table).view(found.shape)
        torch.testing.assert_close(found, written, rtol=1e-5, atol=1e-6)
        weights = [model.table, model.gate.weight, model.aspect]
        pull = torch.linspace(-1, 1, found.numel()).view(found.shape)
        one, two = (torch.autograd.grad((h * pull).sum(), weights, retain_graph=True) for h in (found, written))
        for a, b in zip(one, two, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_one_anchor_is_the_plain_projection():
    model, batch = made(n_anchors=1, d_out=32), bags()
    life = model.anchored(batch)[0][-1][:, 0, 0]
    scale = batch.scales[-1]
    bag = torch.repeat_interleave(torch.arange(len(batch)), scale.offset.diff())
    plain = torch.zeros(len(batch), V).index_put((bag, scale.interest), scale.weight) @ model.table
    torch.testing.assert_close(life, plain, rtol=1e-5, atol=1e-6)


def test_other_numbers_for_the_interests_change_nothing():
    order = np.random.default_rng(1).permutation(V)
    model = made()
    other = made()
    with torch.no_grad():
        other.table[torch.from_numpy(order)] = model.table
    close(run(other, bags(permutation=order)), run(model, bags()))


def test_a_user_without_events_has_the_same_vector_everywhere():
    model = made()
    torch.testing.assert_close(run(model, bags(1)).flat[0], run(model, bags(7)).flat[-1])


def test_weights_come_from_the_seed_alone_and_survive_saving():
    before = torch.get_rng_state()
    one, two, three = made(3), made(3), made(4)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    three.load_state_dict(one.state_dict())
    assert torch.equal(run(three, bags()).flat, run(one, bags()).flat)


def test_the_start_reads_the_bag_in_straight_lines():
    """With no more interests in a group than numbers in an anchor, products of bags are kept."""
    draw = np.random.default_rng(0)
    topic = draw.integers(0, 4, 400)
    words = np.arange(V) % 4 == topic[:, None]
    x = draw.poisson(0.05 + 0.8 * words).astype(np.float32)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
    model = made()
    start_from_bags(model, scipy.sparse.csr_matrix(x), seed=0)
    gate = model.gates(model.table)
    assert bool((gate.max(dim=1).values > 0.9).float().mean() > 0.9)
    assert gate.argmax(dim=1).unique().numel() == 4
    with torch.no_grad():
        sums = torch.from_numpy(x) @ (gate[:, :, None] * model.table[:, None, :16]).flatten(1)
    assert float(np.abs((sums @ sums.T).numpy() - x @ x.T).mean()) < 0.02


def test_scales_that_the_model_cannot_use():
    with pytest.raises(ConfigError, match="life"):
        made(scales="1x3, 2x4")


def test_the_last_anchor_tells_the_rhythm_and_the_others_are_as_without():
    draw = np.random.default_rng(0)
    model, batch = made(rhythm=0.25), bags()
    assert model.rhythm is not None
    told = torch.from_numpy(draw.normal(size=(7, len(model.rhythm.mean))).astype(np.float32))
    with torch.no_grad():
        torch.testing.assert_close(model(batch, told).flat, made(rhythm=0.25)(batch, told).flat)
    start_rhythm(model, draw.normal(size=(50, len(model.rhythm.mean))))
    alone = run(model, batch)
    with torch.no_grad():
        both = model(batch, told)
    assert alone.flat.shape == (7, model.config.d_content)
    assert both.flat.shape == (7, model.config.d_flat)
    torch.testing.assert_close(both.vectors[:, :-1], alone.vectors)
    torch.testing.assert_close(both.mass[:, -1], torch.full((7,), 0.25))
    torch.testing.assert_close(both.flat.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(both.flat[:, : model.config.d_content], alone.flat * 0.75**0.5)
    assert not torch.allclose(both.vectors[0, -1], both.vectors[1, -1], atol=1e-2)
    for without in ({"scales": "life"}, {"n_anchors": 1}, {"paper_form": True}, {"rhythm": 0.0}):
        assert LurmConfig.parse({"size": "tiny", "scales": SCALES, **without}).share_of_rhythm == 0
