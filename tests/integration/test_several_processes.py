"""Two processes train as one does: DDP and FSDP2 over gloo, the same losses, checkpoints that move between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from habitus.core.errors import TrainingError
from habitus.data.ingest import ingest
from habitus.data.sources.simulator import World, simulated_log
from habitus.tasks.run import read_metrics
from habitus.tasks.train import train
from habitus.testing.runs import DAYS, EVENTS, WORLD, tiny_event_run
from habitus.training.checkpoints import LAST, read_checkpoint, read_whole

HERE = Path(__file__).parent
OPTIONS = "loggers = []\nbatches_per_step = 2\ncheckpoint_every = 1\n"
ITEMS = {  # the loss samples, so that the table of items has sparse gradients
    'model = { name = "behavegpt", size = "tiny", n_blocks = 1, form = "joint" }':
        'model = { name = "sasrec", d_model = 16, n_heads = 1, n_blocks = 1 }',
    'objective = { name = "joint", field = "type" }':
        'objective = { field = "item", loss = "sampled", n_negatives = 8 }',
    "length = 16": 'length = 16, fields = ["item"]',
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Recipes of user-days and of events, each for ddp and fsdp, and the runs of one process and of two."""
    sys.path.insert(0, str(HERE))
    from several_processes import train_until  # pyright: ignore

    made = tmp_path_factory.mktemp("several")
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ingest(simulated_log(World.parse(WORLD)), made / "days.store")
    tiny_event_run(made)
    (made / "shop.store").rename(made / "events.store")
    texts = {"days": DAYS.format(seeds=[0]).replace("batch_size = 128", "batch_size = 64"), "events": EVENTS}
    items = EVENTS
    for old, new in ITEMS.items():
        assert old in items
        items = items.replace(old, new)
    joint = 'objective = { name = "joint", field = "type" }'
    one_head = EVENTS.replace(joint, 'objective = { name = "next_event", field = "type" }')  # the others learn nothing
    for name, text in (texts | {"items": items, "one_head": one_head}).items():
        text = text.replace(
            "training = { epochs = 1, lr = 3e-3, loggers = [] }", "[training]\nepochs = 2\nlr = 3e-3\nloggers = []"
        )
        for strategy in ("ddp", "fsdp"):
            more = OPTIONS + f'strategy = "{strategy}"\nby_row = {4 if name == "items" else 0}\n'
            (made / f"{name}-{strategy}.toml").write_text(text.replace("loggers = []\n", more), "utf-8")
        store = made / ("days.store" if name == "days" else "events.store")
        train(made / f"{name}-ddp.toml", out=made / f"{name}-one", store=store)

    train_until(3, recipe=made / "events-fsdp.toml", out=made / "events-moved", store=made / "events.store")

    def step(name: str, strategy: str, goal: str, stop: int | None = None) -> dict[str, Any]:
        store = "days.store" if name == "days" else "events.store"
        paths = {"recipe": f"{name}-{strategy}.toml", "out": f"{name}-{goal}", "store": store}
        return {"stop": stop} | {key: str(made / path) for key, path in paths.items()}

    plan = [step(n, s, s) for n in texts for s in ("ddp", "fsdp")]
    plan += [step("items", "ddp", "ddp"), step("one_head", "ddp", "ddp")]
    plan += [step("events", "fsdp", "moved")]  # what one process began, two go on with
    plan += [step("days", "fsdp", "back", 3)]  # and the other way round
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "several_processes.py"), json.dumps(plan)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    torch.set_num_threads(1)
    yield made
    torch.set_num_threads(n_threads)


def losses(run: Path) -> list[tuple[float, float]]:
    return [(row["train"], row["valid"]) for row in read_metrics(run)["history"]]


CASES = [("days", "ddp"), ("days", "fsdp"), ("events", "ddp"), ("events", "fsdp"), ("events", "moved")]
CASES += [("items", "ddp"), ("one_head", "ddp")]


@pytest.mark.parametrize(("name", "goal"), CASES)
def test_two_processes_train_as_one_does(folder: Path, name: str, goal: str):
    one, two = losses(folder / f"{name}-one"), losses(folder / f"{name}-{goal}")
    assert len(one) == 2
    assert one[0] != one[1]
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-4, atol=1e-5)
    weights = [load_file(folder / f"{name}-{run}" / "artifact" / "weights-0.safetensors") for run in ("one", goal)]
    assert weights[0].keys() == weights[1].keys()
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, rtol=1e-2, atol=2e-3)


def test_one_process_goes_on_with_what_two_began(folder: Path):
    last = folder / "days-back" / "seed-0" / "search" / LAST
    assert last.is_dir()
    assert read_checkpoint(last)["place"]["step"] == 3
    train(folder / "days-fsdp.toml", out=folder / "days-back", store=folder / "days.store")
    assert last.is_file()
    one, found = losses(folder / "days-one"), losses(folder / "days-back")
    torch.testing.assert_close(torch.tensor(found), torch.tensor(one), rtol=1e-4, atol=1e-5)


def test_pieces_are_put_together_and_damage_is_told(folder: Path, tmp_path: Path):
    last = folder / "events-fsdp" / "seed-0" / "search" / LAST
    whole = read_whole(last)
    names = {name for name in whole["state_dict"] if name.startswith("model.")}
    assert names == {f"model.{n}" for n in load_file(folder / "events-fsdp" / "artifact" / "weights-0.safetensors")}
    assert len(list(last.glob("*.distcp"))) == 2
    (tmp_path / LAST).mkdir()
    for file in last.iterdir():
        (tmp_path / LAST / file.name).write_bytes(file.read_bytes())
    next((tmp_path / LAST).glob("*.distcp")).write_bytes(b"")
    with pytest.raises(TrainingError, match="a whole checkpoint"):
        read_whole(tmp_path / LAST)
