"""Field encoders: fitted once, round-trip as JSON, finite on bad values."""

import json

import numpy as np

from habitus.tokens.fields import Scaler, signed_log1p


def test_scaler_standardises_what_it_was_fitted_on():
    values = np.random.default_rng(0).lognormal(size=(500, 3))
    scaled = Scaler.fit(values).encode(values)
    assert np.allclose(scaled.mean(axis=0), 0, atol=0.02)
    assert np.allclose(scaled.std(axis=0), 1, atol=0.05)


def test_scaler_keeps_the_sign_and_survives_missing_and_extreme_values():
    scaler = Scaler.fit(np.array([[1.0], [-1.0], [np.nan]]))
    encoded = scaler.encode(np.array([[5.0], [-5.0], [np.nan], [1e300], [np.inf]]))
    assert encoded[0, 0] == -encoded[1, 0] > 0
    assert encoded[2, 0] == 0
    assert np.isfinite(encoded).all()
    assert np.abs(encoded).max() <= 8


def test_scaler_of_nothing_and_of_constants_is_finite():
    assert Scaler.fit(np.zeros((0, 2))).encode(np.ones((1, 2))).shape == (1, 2)
    assert np.abs(Scaler.fit(np.full((4, 1), 7.0)).encode(np.full((4, 1), 7.0))).max() < 1e-6


def test_json_round_trip_is_exact():
    scaler = Scaler.fit(np.random.default_rng(1).normal(size=(50, 4)))
    again = Scaler.from_json(json.loads(json.dumps(scaler.to_json())))
    assert np.array_equal(again.location, scaler.location)
    assert np.array_equal(again.scale, scaler.scale)


def test_signed_log1p_is_odd_and_increasing():
    values = np.linspace(-50, 50, 101)
    assert np.allclose(signed_log1p(values), -signed_log1p(-values))
    assert (np.diff(signed_log1p(values)) > 0).all()
