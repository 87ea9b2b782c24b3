"""Calibration: measured against a plain computation and scikit-learn, mended, and carried as JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from habitus.core.errors import ArtifactError, TargetError
from habitus.core.seeds import generator
from habitus.metrics.calibration import (
    Platt,
    calibrate,
    calibrator_from_json,
    calibrator_to_json,
    ece,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    reliability,
)
from habitus.metrics.classification import auc, log_loss


def overconfident(n: int = 20_000, sharpness: float = 2.0, shift: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes of a true log-odds z, forecast as sharpness * z + shift."""
    rng = generator(11, "calibration", n)
    z = rng.normal(-1, 1, n)
    y = (rng.uniform(size=n) < 1 / (1 + np.exp(-z))).astype(float)
    return y, 1 / (1 + np.exp(-(sharpness * z + shift)))


def test_bins_hold_equal_mass_and_the_error_is_their_weighted_gap():
    y, p = overconfident(1000)
    bins = reliability(y, p, n_bins=10)
    assert bins.n.tolist() == [100] * 10
    order = np.argsort(p)
    by_hand = np.abs([p[part].mean() - y[part].mean() for part in np.split(order, 10)])
    assert ece(y, p) == pytest.approx(by_hand.mean())
    assert (np.diff(bins.predicted) > 0).all()
    assert bins.predicted @ bins.n == pytest.approx(p.sum())
    assert bins.observed @ bins.n == pytest.approx(y.sum())


def test_resampled_error_keeps_the_bins():
    y, p = overconfident(1000)
    values = ece(y, p, np.stack([np.ones(1000), np.full(1000, 3)]))
    assert values == pytest.approx([ece(y, p)] * 2)
    assert np.isnan(ece(np.zeros(0), np.zeros(0)))
    assert reliability(np.array([1.0]), np.array([0.5])).n.tolist() == [1]


def test_platt_finds_the_planted_line_and_equals_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    y, p = overconfident()
    found = fit_platt(y, p)
    assert found.slope == pytest.approx(1 / 2, abs=0.03)
    assert found.shift == pytest.approx(-0.5 / 2, abs=0.08)
    x = np.log(p / (1 - p))[:, None]
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(x, y)
    assert found.slope == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert found.shift == pytest.approx(reference.intercept_[0], rel=1e-3)
    assert calibrate(found, p).mean() == pytest.approx(y.mean(), rel=1e-6)


def test_isotonic_equals_scikit_learn():
    from sklearn.isotonic import IsotonicRegression

    y, p = overconfident(3000)
    reference = IsotonicRegression(out_of_bounds="clip").fit(p, y)
    grid = np.linspace(p.min(), p.max(), 200)
    floor = 1 / (2 * y.size + 2)
    assert calibrate(fit_isotonic(y, p), grid) == pytest.approx(
        np.clip(reference.predict(grid), floor, 1 - floor), abs=1e-6
    )


@pytest.mark.parametrize("fit", [fit_temperature, fit_platt, fit_isotonic])
def test_calibrating_mends_fresh_rows_and_travels_as_json(fit):
    y, p = overconfident(shift=0.0 if fit is fit_temperature else 0.5)
    first, second = slice(0, 10_000), slice(10_000, None)
    calibrator = fit(y[first], p[first])
    again = calibrator_from_json(json.loads(json.dumps(calibrator_to_json(calibrator))))
    assert again == calibrator
    mended = calibrate(again, p[second])
    assert log_loss(y[second], mended) < log_loss(y[second], p[second]) - 0.01
    assert ece(y[second], mended) < ece(y[second], p[second]) / 2
    assert auc(y[second], mended) == pytest.approx(auc(y[second], p[second]), abs=0.002)


def test_no_calibrator_changes_nothing():
    p = np.array([[0.0, 0.25], [0.5, 1.0]])
    assert (calibrate(None, p) == p).all()
    assert calibrate(Platt(1.0), p) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize("fit", [fit_temperature, fit_platt, fit_isotonic])
def test_one_class_cannot_be_calibrated(fit):
    with pytest.raises(TargetError, match="0 of 3 positive"):
        fit(np.zeros(3), np.array([0.1, 0.2, 0.3]))


def test_perfect_separation_stays_finite():
    y, p = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.2, 0.8, 0.9])
    for fit in (fit_temperature, fit_platt, fit_isotonic):
        mended = calibrate(fit(y, p), p)
        assert np.isfinite(log_loss(y, mended))
        assert (np.diff(mended) >= 0).all()


def test_foreign_json_is_refused():
    with pytest.raises(ArtifactError, match="beta"):
        calibrator_from_json({"kind": "beta", "a": 1})
    with pytest.raises(ArtifactError):
        calibrator_from_json({"kind": "platt", "scale": 1})
