"""The ablations' bookkeeping: overrides of a recipe, what is still to run, and what the table calls noise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from benchmarks import ablations
from benchmarks.ablations import BASE, CHANGES, Change, overridden, pooled, read_figures, recipe_of, run_missing, table
from habitus.tasks.recipe import Recipe


@pytest.mark.parametrize("world", ["online_retail", "effects"])
@pytest.mark.parametrize("change", CHANGES, ids=[change.name for change in CHANGES])
def test_every_change_is_a_recipe_that_differs(world: str, change: Change):
    values = recipe_of(world)
    changed = Recipe.parse(overridden(values, change.values), where=change.name)
    assert (changed == Recipe.parse(values, where=world)) == (change is BASE)


def test_an_override_leaves_the_recipe_as_it_was():
    values = recipe_of("effects")
    changed = overridden(values, {"targets.spend.head": "hurdle", "tokens.history": 5})
    assert (changed["targets"][1]["head"], changed["tokens"]["history"]) == ("hurdle", 5)
    assert values == recipe_of("effects")


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ran: list[tuple[str, int]] = []

    def run_once(recipe: Recipe, inputs: object, seed: int, folder: Path) -> dict[str, float]:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append((folder.name, seed))
        return {"buy: AUC": 0.7}

    monkeypatch.setattr(ablations, "run_once", run_once)
    monkeypatch.setattr(ablations, "ingest", lambda log, path: None)
    monkeypatch.setattr(ablations.Prepared, "of", classmethod(lambda cls, store, recipe: None))
    file = tmp_path / "figures.csv"
    arguments = ("effects", "tiny", CHANGES[:2], (0, 1), file, tmp_path, float("inf"))
    with pytest.raises(KeyboardInterrupt):
        run_missing(*arguments)
    assert len({(row["change"], row["seed"]) for row in read_figures(file)}) == 2
    first, ran[:] = list(ran), []
    run_missing(*arguments)
    assert sorted(first + ran) == sorted((f"{change.name} {seed}", seed) for change in CHANGES[:2] for seed in (0, 1))
    ran.clear()
    run_missing(*arguments)
    assert ran == []


def _rows(figures: dict[str, list[float]]) -> list[dict[str, str]]:
    facts = {"world": "effects", "size": "tiny", "metric": "buy: AUC"}
    return [
        facts | {"change": name, "seed": str(seed), "value": str(value)}
        for name, values in figures.items()
        for seed, value in enumerate(values)
    ]


def test_differences_within_the_noise_of_seeds_stand_in_brackets():
    rows = _rows({BASE.name: [0.70, 0.72, 0.71], "far": [0.60, 0.62, 0.61], "near": [0.715, 0.725, 0.705]})
    lines = table(rows, "effects", "tiny")
    assert lines[2].startswith("| as it is (± one seed) | 3 | 0.71 ± 0.01 |")
    assert "| far | 3 | -0.1 |" in lines
    assert "| near | 3 | (+0.005) |" in lines


def test_the_spread_is_pooled_within_changes():
    assert pooled([[1.0, 3.0], [11.0, 13.0]]) == pytest.approx(2**0.5)
