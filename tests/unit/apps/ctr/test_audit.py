"""The audit finds the bait of the world: who joins by day beats what can be known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.apps.ctr.audit import audit, ceilings, findings_table
from habitus.core.errors import CutoffError
from habitus.data.impressions import Impressions
from habitus.data.sources.taobao_ad import read_taobao_ad
from habitus.data.sources.taobao_ad_world import PARTS, write_taobao_ad_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Impressions]:
    folder = tmp_path_factory.mktemp("audit")
    write_taobao_ad_world(folder / "raw", n_users=900, n_ads=200, n_events=60)
    return folder / "raw", read_taobao_ad(folder / "raw", folder / "out", threads=1)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("habitus.apps.ctr.audit.ROUNDS", 25)


def test_a_join_by_day_and_same_day_rates_beat_the_ceiling_and_honest_rows_do_not(world) -> None:
    found = {finding.join: finding for finding in audit(world[1], guards=(0, 3600))}
    assert {name: finding.is_leak for name, finding in found.items()} == {
        "history ends 0 s before": False,
        "history ends 3600 s before": False,
        "history joined by day": True,
        "click rates with the same day": True,
    }
    table = findings_table(list(found.values()))
    assert table["earned"][0] == 0
    assert table["earned"][2] > 0.1


def test_without_a_truth_nothing_is_called_a_leak_and_one_class_is_an_error(world) -> None:
    shown = world[1]
    bare = Impressions(**{**shown.__dict__, "truth": None})
    assert not any(finding.is_leak for finding in audit(bare, guards=(0,)))
    with pytest.raises(CutoffError, match="one class"):
        audit(Impressions(**{**shown.__dict__, "label": np.zeros_like(shown.label)}))


def test_ceilings_rise_and_are_what_drawn_labels_give_on_average(world) -> None:
    from habitus.metrics.classification import auc

    truth = pl.read_parquet(world[0] / "truth.parquet")
    p, parts = truth["p"].to_numpy(), truth.select(PARTS).to_numpy()
    steps = ceilings(parts, p)
    assert list(steps) == sorted(steps)
    assert np.allclose(steps, [0.598, 0.618, 0.638, 0.663, 0.688], atol=0.03)
    draw = np.random.default_rng(0)
    drawn = [float(auc((draw.random(len(p)) < p).astype(int), p)) for _ in range(30)]
    assert np.mean(drawn) == pytest.approx(steps[-1], abs=4 * np.std(drawn) / np.sqrt(30))
