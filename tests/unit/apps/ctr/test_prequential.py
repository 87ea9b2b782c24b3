from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from habitus.apps.ctr.linear import LinearConfig
from habitus.apps.ctr.prequential import prequential
from habitus.core.errors import CutoffError
from habitus.data.impressions import Impressions

LINEAR = LinearConfig.parse({"bits": 12, "left_out": ["user"]})


def test_a_day_is_scored_by_labels_that_were_known(shown: Impressions):
    late = replace(shown, delay=2)
    found = prequential(late, LINEAR, features="static")
    days = np.unique(shown.day)
    assert np.unique(found.day).tolist() == days[2:].tolist()
    assert found.n_fits == len(days) - 2
    last = days[-1]
    hidden = replace(late, label=np.where(late.day > last - 2, 1 - late.label, late.label).astype(np.int8))
    other = prequential(hidden, LINEAR, features="static")
    np.testing.assert_array_equal(other.p[other.day == last], found.p[found.day == last])
    assert not np.array_equal(other.label, found.label)


def test_without_known_labels_nothing_can_be_scored(shown: Impressions):
    with pytest.raises(CutoffError, match="none"):
        prequential(replace(shown, delay=60), LINEAR, features="static")
