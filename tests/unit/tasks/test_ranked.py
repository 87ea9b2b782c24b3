"""Ranks of the truth against a plain loop, with and without what the user had, at any chunk size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from habitus.core.errors import TrainingError
from habitus.models.sasrec import SASRec, SASRecConfig
from habitus.models.transition import Transition, TransitionConfig
from habitus.tasks import ranked as task
from habitus.tasks.ranked import mixed, ranked, teller
from habitus.testing.events import event_batch
from habitus.testing.threads import one_thread
from habitus.tokens.events import EventShape

__all__ = ["one_thread"]

SHAPE = EventShape((("type", 4), ("item", 25)), n_amounts=0, length=9)
LOADER = [event_batch(7, SHAPE, seed) for seed in (1, 2)]
COUNTED = Transition.counted(TransitionConfig(), SHAPE, LOADER)
NEURAL = [SASRec(SASRecConfig(d_model=8), SHAPE, seed=seed).eval() for seed in (0, 1)]


def by_hand(members: list) -> dict[str, list]:
    found: dict[str, list] = {"rank": [], "rank_new": [], "log_p": [], "told": [], "is_repeat": [], "top": []}
    for batch in LOADER:
        for r, t in batch.is_target.nonzero().tolist():
            one = replace(batch, **{k: getattr(batch, k)[r : r + 1, : t + 1] for k in ("ids", "time", "next_time")})
            one = replace(
                one, length=torch.tensor([t + 1]), **{k: getattr(batch, k)[r : r + 1] for k in ("sample", "remaining")}
            )
            p = torch.stack([m.scores(one, "item").softmax(dim=1)[0] for m in members]).mean(dim=0).tolist()
            told, past = int(batch.next_ids[r, t, 1]), set(batch.ids[r, : t + 1, 1].tolist())
            found["told"].append(told)
            found["rank"].append(sum(x >= p[told] for x in p))
            new = [v for v in range(2, 25) if v not in past]
            found["is_repeat"].append(told in past)
            found["rank_new"].append(25 if told in past else sum(p[v] >= p[told] for v in new))
            found["log_p"].append(np.log(p[told]))
            found["top"].append(int(np.argmax(p)))
    return found


@pytest.mark.parametrize("members", [[COUNTED], NEURAL[:1], NEURAL], ids=["counted", "neural", "ensemble"])
@pytest.mark.parametrize("cells", [task.CELLS, 60])
@torch.no_grad()
def test_ranks_against_a_loop(members: list, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "CELLS", cells)
    expected, found = by_hand(members), ranked(teller(members, "item"), LOADER, 1)
    assert any(expected["is_repeat"])
    for name in ("told", "rank", "rank_new", "is_repeat"):
        assert getattr(found, name).tolist() == expected[name], name
    assert found.log_p.tolist() == pytest.approx(expected["log_p"], rel=1e-4)
    if members is not COUNTED:
        assert np.mean(found.top == expected["top"]) > 0.9  # ties of the counted model may fall either way


def constant(batch) -> object:
    return lambda row, place: torch.zeros(len(row), 25)


def test_all_alike_ranks_last() -> None:
    found = ranked(constant, LOADER, 1)
    assert set(found.rank.tolist()) == {25}


def test_nan_is_an_error() -> None:
    with pytest.raises(TrainingError, match="nan"):
        ranked(lambda batch: lambda row, place: torch.full((len(row), 25), torch.nan), LOADER, 1)


def test_a_mix_averages_probabilities() -> None:
    def at(tell) -> Tensor:
        return tell(LOADER[0])(torch.tensor([0]), torch.tensor([0]))[0].exp()

    one, other = teller([COUNTED], "item"), teller(NEURAL[:1], "item")
    with torch.no_grad():
        torch.testing.assert_close(at(mixed(one, other, 0.3)), 0.7 * at(one) + 0.3 * at(other))


def test_many_mixes_at_once_are_the_mixes_one_by_one() -> None:
    one, other = teller([COUNTED], "item"), teller(NEURAL, "item")
    found = task.ranked_mixes(one, other, (0.2, 0.7), LOADER, 1, None)
    for share, several in zip((0.2, 0.7), found):
        single = ranked(mixed(one, other, share), LOADER, 1)
        assert several.told.tolist() == single.told.tolist()
        assert several.log_p.tolist() == pytest.approx(single.log_p.tolist(), abs=1e-4)
        assert np.mean(several.rank == single.rank) > 0.95  # rounding may part ties


def in_order(found):
    return found.by(found.sample * 100 + found.place)


def test_order_of_batches_does_not_matter_once_sorted() -> None:
    batches = [LOADER[0], replace(LOADER[1], sample=LOADER[1].sample + 7)]
    tell = teller([COUNTED], "item")
    one, two = (in_order(ranked(tell, some, 1)) for some in (batches, batches[::-1]))
    assert one.sample.tolist() == two.sample.tolist()
    assert one.rank.tolist() == two.rank.tolist()


def test_no_targets_no_rows() -> None:
    silent = replace(LOADER[0], is_target=torch.zeros_like(LOADER[0].is_target))
    assert len(ranked(constant, [silent], 1)) == 0
