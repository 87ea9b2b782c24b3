"""Personas: a world whose best score is known, Stats.StackExchange, and threads streamed through fit and predict."""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.record import record
from habitus.apps.personas.evaluate import evaluate_personas
from habitus.apps.personas.fit import fit_personas
from habitus.apps.personas.predict import predict_personas
from habitus.apps.personas.settings import PersonasRecipe, read_personas_recipe
from habitus.data.sources.persona_world import PersonaWorldConfig, write_persona_world

HERE = Path(__file__).parent
STATS = HERE.parents[1] / "shared" / "data" / "stats_se"
STREAMED = {"trees": {"rounds": 15, "max_rows": 60_000}, "rare": {"epochs": 2, "max_rows": 30_000}, "max_valid": 20_000}


def of_run(run: Path) -> None:
    """Record the figures of RUN/metrics.json."""
    found = json.loads((run / "metrics.json").read_text("utf-8"))
    title, note = f"{found['name']} {found['part']}", f"{found['n_rows']:,} rows, {found['split']} split, one run"
    for card in found["cards"]:
        span = f"95 % {card['low']:.4f} to {card['high']:.4f}; {note}"
        record("personas", f"{title}, {card['model']}: macro-F1", card["macro_f1"], note=span)
        for key in ("persona_mean", "common_only", "rare_only", "accuracy", "log_loss", "ece"):
            record("personas", f"{title}, {card['model']}: {key}", card[key], note=note)
    for row in found["differences"]:
        span = f"95 % {row['low']:+.4f} to {row['high']:+.4f}; {note}"
        record("personas", f"{title}, hybrid - {row['against']}: macro-F1", row["value"], note=span)
    for row in found["lookup"]:
        for key in ("coverage", "precision"):
            if row[key] is not None:
                record("personas", f"{title}, store, {row['level']}, share {row['tau']}: {key}", row[key], note=note)


def streamed(n: int, folder: Path) -> None:
    """Stream n generated threads through fit (models of small size) and predict; say the speed and the memory."""
    began = time.perf_counter()
    world = folder / "world"
    if not world.is_dir():
        write_persona_world(world, PersonaWorldConfig(n_threads=n), has_truth=False)
        record("personas", f"{n:,} threads written: threads/s", n / (time.perf_counter() - began))
    recipe = PersonasRecipe.parse(STREAMED | {"name": "streamed"})
    began = time.perf_counter()
    run = fit_personas(recipe, world / "threads.jsonl", folder / "run")
    seconds = time.perf_counter() - began
    read = json.loads((run / "read.json").read_text("utf-8"))
    size = "trees of 15 rounds on 60,000 rows"
    record("personas", f"{n:,} threads read, checked, split: threads/s", n / read["seconds"])
    record("personas", f"{n:,} threads through fit: threads/s", n / seconds, note=size)
    record("personas", f"{n:,} threads, most memory after fit", peak(), "GB", note=size)
    found = predict_personas(run, world / "threads.jsonl", folder / "answers.parquet")
    record("personas", f"{n:,} threads through predict: threads/s", found.n_rows / found.seconds, note=size)
    record("personas", f"{n:,} threads, most memory after predict", peak(), "GB", note=size)


def peak() -> float:
    """Give the most memory this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def small() -> None:
    """Run the whole road on 20,000 threads of 5 personas."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = write_persona_world(folder / "w", PersonaWorldConfig(n_threads=20_000, n_personas=5))
        recipe = PersonasRecipe.parse({"name": "small_personas", "trees": {"rounds": 40}, "rare": {"epochs": 8}})
        run = fit_personas(recipe, world / "threads.jsonl", folder / "run")
        evaluate_personas(run, truth=world / "truth.parquet")
        of_run(run)


def full() -> None:
    """Run the recipes of the repository: the world of 500,000 threads, and Stats.StackExchange where it is there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = write_persona_world(folder / "w", PersonaWorldConfig(n_threads=500_000))
        recipe = read_personas_recipe(HERE.parent / "recipes" / "world_personas.toml")
        run = fit_personas(recipe, world / "threads.jsonl", folder / "run")
        evaluate_personas(run, truth=world / "truth.parquet")
        of_run(run)
        if not STATS.is_dir():
            print(f"left out: no folder {STATS.name}")
            return
        recipe = read_personas_recipe(HERE.parent / "recipes" / "stats_se_personas.toml")
        run = fit_personas(recipe, STATS, folder / "stats_se")
        evaluate_personas(run)
        of_run(run)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--run", type=Path, action="append", default=[], help="A run of habitus personas, evaluated.")
    parser.add_argument("--stream", type=int, metavar="N", help="Stream N generated threads through fit and predict.")
    parser.add_argument("--folder", type=Path, help="Where the streamed world and run are kept.")
    asked = parser.parse_args()
    for run in asked.run:
        of_run(run)
    if asked.stream:
        with tempfile.TemporaryDirectory() as name:
            streamed(asked.stream, asked.folder or Path(name))
    if not asked.run and not asked.stream:
        small() if asked.size == "small" else full()


if __name__ == "__main__":
    main()
