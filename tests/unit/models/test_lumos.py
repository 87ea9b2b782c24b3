"""Sizes, dials and counts of LUMOS; what every model must do is in tests/contracts."""

import pytest
import torch

from habitus.core.errors import ConfigError
from habitus.models.lumos import Lumos, LumosConfig, LumosShape, flops
from habitus.testing.contracts import day_batch

SPEC = {"n_activity": 13, "n_known": 32, "n_profile": 9, "history": 360}
REFERENCE = LumosShape(**SPEC, horizon=7, outputs=(1,) * 5)
REFERENCE_BY_DAY = LumosShape(**SPEC, horizon=7, day_outputs=(1,) * 5)
OURS = LumosShape(**SPEC, horizon=28, outputs=(1, 1, 3, 3, 3))


def count(config: LumosConfig, shape: LumosShape) -> int:
    return sum(p.numel() for p in Lumos(config, shape).parameters())


@pytest.mark.parametrize(
    ("config", "shape", "expected"),
    [
        ({"size": "reference"}, REFERENCE, 14_691_845),
        ({"size": "reference", "positions": "learned"}, REFERENCE, 14_879_749),
        ({"size": "reference"}, REFERENCE_BY_DAY, 13_118_981),
        ({"size": "tiny"}, OURS, 135_275),
        ({"size": "small"}, OURS, 2_819_819),
        ({"size": "base"}, OURS, 13_325_579),
        ({"size": "large"}, OURS, 203_940_363),
    ],
)
def test_parameter_counts(config: dict, shape: LumosShape, expected: int) -> None:
    assert count(LumosConfig(**config), shape) == expected


def test_a_readout_by_day_costs_only_where_it_is_asked_for() -> None:
    both = LumosShape(**SPEC, horizon=28, outputs=OURS.outputs, day_outputs=(1, 3))
    d = LumosConfig(size="tiny").d_model
    calendar = (SPEC["n_known"] + 1) * 4
    assert count(LumosConfig(size="tiny"), both) - 135_275 == d * d + d + (d + 1) * 4 + calendar
    assert count(LumosConfig(size="tiny", calendar_gain=0), both) - 135_275 == d * d + d + (d + 1) * 4


def test_the_dial_fills_what_is_not_given() -> None:
    config = LumosConfig(size="large", n_encoder=3, dropout=0.0)
    assert (config.d_model, config.n_heads, config.d_ff, config.n_encoder, config.n_decoder) == (1024, 16, 4096, 3, 4)
    assert LumosConfig().d_model == LumosConfig(size="small").d_model == 192
    reference = LumosConfig(size="reference", norm="pre")
    assert (reference.norm, reference.activation, reference.readout) == ("pre", "relu", "flatten")
    assert LumosConfig.parse(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sise": "tiny"}, "did you mean 'size'"),
        ({"size": "huge"}, "'huge'"),
        ({"size": "tiny", "n_heads": 7}, "multiple of n_heads"),
        ({"d_model": 100}, "multiple of 8"),
        ({"dropout": 1.0}, "less than 1"),
    ],
)
def test_configs_that_make_no_sense_are_refused(values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LumosConfig.parse(values)


@pytest.mark.parametrize(("n_kept", "gigaflops"), [(360, 8.04), (30, 0.63), (10, 0.24)])
def test_operations_agree_with_the_count_by_hand(n_kept: int, gigaflops: float) -> None:
    assert flops(LumosConfig(size="reference"), REFERENCE, n_kept) / 1e9 == pytest.approx(gigaflops, rel=0.01)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "post", "readout": "flatten", "activation": "relu"},
        {"future_self_attention": True},
        {"profile_gain": 5.0},
        {"d_profile": 16, "has_glance": True},
    ],
)
def test_operations_agree_with_what_torch_counts(options: dict) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    shape = LumosShape(5, 12, 3, 60, 14, (1, 3), (1,))
    model = Lumos(LumosConfig(size="tiny", **options), shape).eval()
    batch = day_batch(8, shape, n_days=20)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(batch)
    n_places = batch.kind.shape[1]  # torch counts padding too
    assert 8 * model.flops(n_places) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_dropout_is_drawn_in_training_only() -> None:
    shape = LumosShape(5, 12, 3, 60, 14, (1, 3))
    model, batch = Lumos(LumosConfig(size="tiny"), shape), day_batch(8, shape)
    assert not torch.equal(model(batch).window, model(batch).window)
    assert torch.equal(model.eval()(batch).window, model(batch).window)


def test_outputs_start_near_zero_which_is_the_base_rate() -> None:
    for size in ("tiny", "small", "reference"):
        model = Lumos(LumosConfig(size=size), LumosShape(5, 12, 3, 60, 14, (1, 3))).eval()
        with torch.no_grad():
            assert float(model(day_batch(32, model.shape)).window.abs().mean()) < 0.5


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "tape", "none"])
def test_positions_tell_when(positions: str) -> None:
    shape = LumosShape(3, 4, 2, 40, 5, (1,))
    model, batch = Lumos(LumosConfig(size="tiny", positions=positions), shape).eval(), day_batch(4, shape)
    later = type(batch)(**{**vars(batch), "day": (batch.day + 1).clamp(max=39)})
    assert torch.equal(model(batch).window, model(later).window) is (positions == "none")


def test_a_linear_way_from_the_profile_starts_at_nothing_and_knows_no_bound() -> None:
    shape = LumosShape(n_activity=3, n_known=12, n_profile=4, history=30, horizon=7, outputs=(1, 3), day_outputs=(1,))
    config = LumosConfig(size="tiny", profile_gain=10.0, dropout=0.5)
    assert count(config, shape) - count(LumosConfig(size="tiny"), shape) == 4 * (4 + 1)
    model, batch = Lumos(config, shape).eval(), day_batch(5, shape)
    before = model(batch)
    assert model.straight is not None
    assert not model.straight.line.weight.any()
    with torch.no_grad():
        model.straight.line.weight.fill_(1.0)
    after = model(batch)
    wanted = 10.0 * batch.profile.sum(dim=1, keepdim=True).expand_as(after.window)
    torch.testing.assert_close(after.window - before.window, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.day, before.day)


def test_the_linear_way_is_open_for_the_targets_named_alone() -> None:
    shape = LumosShape(3, 12, 4, 30, 7, outputs=(1, 3), is_straight=(False, True))
    model, batch = Lumos(LumosConfig(size="tiny", profile_gain=1.0), shape).eval(), day_batch(5, shape)
    before = model(batch).window
    assert model.straight is not None
    with torch.no_grad():
        model.straight.line.weight.fill_(1.0)
    after = model(batch).window
    torch.testing.assert_close(after[:, :1], before[:, :1], atol=0.0, rtol=0.0)
    assert not torch.isclose(after[:, 1:], before[:, 1:]).any()


def test_a_glance_tells_every_day_of_the_others() -> None:
    """Without it, an event of the last day alone cannot reach the query of the first day."""
    shape = LumosShape(3, 4, 2, 40, 5, day_outputs=(1,))
    batch = day_batch(3, shape)
    other = batch.known_future.clone()
    other[:, -1, 3] += 5.0
    for has_glance in (False, True):
        model = Lumos(LumosConfig(size="tiny", d_profile=16, has_glance=has_glance), shape).eval()
        cache = model.encode(batch)
        first, second = (model.decode(cache, known).day for known in (batch.known_future, other))
        assert first is not None
        assert second is not None
        assert torch.equal(first[:, 0], second[:, 0]) == (not has_glance)


def test_a_glance_needs_a_way_of_its_own() -> None:
    with pytest.raises(ConfigError, match="d_profile"):
        LumosConfig.parse({"size": "tiny", "has_glance": True})


def test_the_days_can_tell_the_window_and_only_where_asked() -> None:
    shape = LumosShape(**SPEC, horizon=7, outputs=(1, 3), day_outputs=(1, 3))
    model, plain = (Lumos(LumosConfig(size="tiny", day_gain=gain), shape).eval() for gain in (2.0, 0.0))
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters()) == (4 + 1) * 4
    batch = day_batch(3, shape, n_targets=2, n_days=5, seed=0)
    out = model(batch)
    assert not model.from_days(out.day).any(), "it starts from zero"
    with torch.no_grad():
        model.from_days.line.weight[0, 0] = 0.5  # the first day output speaks to the first window output
        after = model(batch).window
    moved = after - out.window
    mean = out.day[..., 0].exp().mean(dim=1).log()
    torch.testing.assert_close(moved[:, 0], mean, rtol=1e-4, atol=1e-6)
    assert not moved[:, 1:].any()
    windows_alone = LumosShape(**SPEC, horizon=7, outputs=(1,))
    assert Lumos(LumosConfig(size="tiny", day_gain=2.0), windows_alone).from_days is None


def test_taste_weighs_the_events_of_a_day_by_the_profile_alone() -> None:
    shape = LumosShape(**SPEC, horizon=7, outputs=(1,), day_outputs=(1, 2))
    model = Lumos(LumosConfig(size="tiny", taste_gain=2.0), shape).eval()
    batch = day_batch(3, shape, n_targets=1, n_days=5, seed=0)
    before = model(batch)
    with torch.no_grad():
        model.taste.line.weight[SPEC["n_known"] + 4, 1] = 0.5  # day output 1, known number 4, column 1
        after = model(batch)
    moved = after.day - before.day
    expected = 2.0 * 0.5 * batch.profile[:, None, 1] * batch.known_future[..., 4]
    torch.testing.assert_close(moved[..., 1], expected, rtol=1e-4, atol=1e-6)
    assert not moved[..., [0, 2]].any()
    assert torch.equal(after.window, before.window), "the window hears of it through `day_gain` alone"
    cache = model.encode(batch)
    torch.testing.assert_close(model.decode(cache, batch.known_future).day, after.day)
