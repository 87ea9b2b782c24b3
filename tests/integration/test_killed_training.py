"""kill -9 at some step, then the same call again: the same next losses, to the bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from habitus.models.heads import fit_head, n_outputs
from habitus.models.lumos import Lumos, LumosConfig, LumosShape
from habitus.testing.contracts import day_batch
from habitus.testing.loaders import BatchList
from habitus.testing.threads import one_thread
from habitus.training.fit import Fitted, TrainingConfig, fit
from habitus.training.objectives.multi_task import MultiTask

__all__ = ["one_thread"]

HEADS = (fit_head("binary", "buy", 5, [0, 1]), fit_head("ziln", "spend", 5, [0, 1.0]))
SHAPE = LumosShape(3, 4, 2, 20, 5, tuple(n_outputs(h) for h in HEADS))
KILL_AT = 12  # of 18 steps: inside the second epoch, two steps after a checkpoint


class Slow(BatchList):
    """Takes its time, so that a kill falls where it is meant to."""

    def __iter__(self):
        for batch in super().__iter__():
            time.sleep(0.03)
            yield batch


def train(folder: Path, loader: type[BatchList] = BatchList) -> Fitted:
    batches = [day_batch(16, SHAPE, n_days=6, seed=seed) for seed in range(8)]
    config = TrainingConfig(epochs=3, lr=3e-3, loggers=("csv",), log_every=1, checkpoint_every=5, averaging="ema")
    model = Lumos(LumosConfig(size="tiny", d_model=16, n_heads=2, d_ff=16), SHAPE)
    return fit(model, MultiTask(HEADS), loader(batches[:6]), BatchList(batches[6:], seed=None), config, folder)


def logged(folder: Path) -> list[list[str]]:
    """Rows of the step log without the columns about speed."""
    file = folder / "log.csv"
    lines = [line.split(",") for line in file.read_text().splitlines()] if file.exists() else []
    return [line[: lines[0].index("positions_per_second")] for line in lines]


def killed(folder: Path) -> int:
    """Train in a process of its own and kill it from outside; give the last step it logged."""
    run = subprocess.Popen([sys.executable, __file__, str(folder)], start_new_session=True)
    try:
        until = time.monotonic() + 120
        while len(logged(folder)) <= KILL_AT:
            assert run.poll() is None, "training ended before it could be killed"
            assert time.monotonic() < until, "training did not get going"
            time.sleep(0.002)
        os.kill(run.pid, signal.SIGKILL)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == -signal.SIGKILL
    return int(logged(folder)[-1][0])


def test_a_killed_run_goes_on_with_the_same_next_losses(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    died_at = killed(tmp_path / "killed")
    assert KILL_AT <= died_at < 18
    place = torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)["place"]
    assert 0 < place["step"] < died_at or place["step"] == died_at
    resumed = train(tmp_path / "killed")
    assert resumed.throughput["n_steps"] == 18 - place["step"]
    assert resumed.history == whole.history
    assert len(logged(tmp_path / "whole")) == 19
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    one, two = load_file(whole.best_path), load_file(resumed.best_path)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert {f.name for f in (tmp_path / "killed").iterdir()} == {"last.ckpt", "best.safetensors", "log.csv"}


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), Slow)
