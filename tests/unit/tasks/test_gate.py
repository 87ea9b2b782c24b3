"""How many training rows the gate looks at."""

from __future__ import annotations

import numpy as np

from habitus.data.cutoffs import Samples
from habitus.tasks.gate import _thinned

SAMPLES = Samples(np.arange(1000), np.repeat(np.arange(10, dtype=np.int32), 100))


def test_all_rows_unless_told_otherwise():
    assert _thinned(SAMPLES, None, 0) is SAMPLES
    assert _thinned(SAMPLES, 1000, 0) is SAMPLES


def test_a_random_part_of_every_cut_off_in_the_same_order():
    found = _thinned(SAMPLES, 400, 0)
    assert len(found) == 400
    assert bool((np.diff(found.user) > 0).all())
    assert bool((np.bincount(found.cutoff, minlength=10) > 20).all())
    assert np.array_equal(found.user, _thinned(SAMPLES, 400, 0).user)
    assert not np.array_equal(found.user, _thinned(SAMPLES, 400, 1).user)
