"""Where a run stands, on disk: a run killed at any moment goes on from here with the same next losses.

    last.ckpt            weights, optimiser, place in the data: to resume (tensors and plain values only); a folder
                         of pieces where the weights are cut over several devices
    best.safetensors     the weights to use
    log.csv              one row per `log_every` steps
    tensorboard/         the same, for TensorBoard

Randomness is not saved: every step draws from `derive(seed, "step", step)`.
"""

from __future__ import annotations

import csv
import pickle
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from habitus.core.atomic import PARTIAL, new_file
from habitus.core.errors import TrainingError

FORMAT = 1
LAST, BEST, LOG = "last.ckpt", "best.safetensors", "log.csv"
PLAIN = "meta.pt"  # of a folder of pieces: what is no tensor of the model or optimiser, under Lightning's name
FREE = {"checkpoint_every", "log_every", "loggers", "accelerator", "by_row", "devices", "strategy"}  # may change


@dataclass
class Place:
    """Where a run stands, after a whole number of steps."""

    settings: dict[str, str] = field(default_factory=dict)  # what must not change between start and resume
    epoch: int = 0
    batch: int = 0  # done in this epoch
    step: int = 0  # done in all
    loader: dict[str, Any] | None = None  # state of the loader inside this epoch
    sums: dict[str, list[float]] = field(default_factory=dict)  # of the training losses inside this epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # one row per epoch done
    best_epoch: int | None = None
    best_score: float = float("inf")
    is_done: bool = False
    is_stopped_early: bool = False

    def to_state(self) -> dict[str, Any]:
        """Give plain values."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Read what `to_state` gave."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in state.items() if name in known})


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write beside, then rename. A folder of pieces that lies there gives way; see `recover`."""
    if path.is_dir():
        torch.save(dict(content), beside(path)[0])
        put(path)
        return
    with new_file(path) as made:
        torch.save(dict(content), made)


def beside(path: Path) -> tuple[Path, Path]:
    """Give where a checkpoint is written, and where the old one waits, when a rename alone cannot replace it."""
    return path.with_name(f"{PARTIAL}{path.name}"), path.with_name(f"{PARTIAL}old-{path.name}")


def put(path: Path) -> None:
    """Put what lies beside in the place of the old checkpoint, be they files or folders."""
    new, old = beside(path)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)


def recover(path: Path) -> None:
    """End what a kill between the renames of `put` left undone."""
    new, old = beside(path)
    if not path.exists() and old.exists() and new.exists():
        new.rename(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read tensors and plain values; nothing in the file is executed. Of a folder of pieces, all but the tensors.

    Errors: `TrainingError` for a file that is not a whole checkpoint.
    """
    path = path / PLAIN if path.is_dir() else path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hints about foreign pickles; the error below says what matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as cause:
        raise TrainingError(
            "a checkpoint of this toolkit",
            f"{type(cause).__name__}: {str(cause).splitlines()[0][:200]}",
            where=str(path),
            fix="remove the file to start the run again",
        ) from None


def read_whole(path: Path) -> dict[str, Any]:
    """Put a folder of pieces together, on one device: what `read_checkpoint` gives of a file.

    States of the optimiser are by the names of the weights; `training.distributed.by_number` turns them.
    Errors: `TrainingError` for pieces that are not whole.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    state: dict[str, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a process that is no part of a group
            reader = FileSystemReader(path)
            _load_state_dict(state, storage_reader=reader, planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    except (CheckpointException, RuntimeError, OSError, ValueError, KeyError) as cause:
        found = f"{type(cause).__name__}: {str(cause).splitlines()[-1][:200]}"
        raise TrainingError("a whole checkpoint", found, where=str(path), fix="remove it to start again") from None
    return read_checkpoint(path) | {"state_dict": state["state_dict"], "optimizer_states": [state["optimizer_0"]]}


def read_place(folder: Path, settings: Mapping[str, str]) -> Place:
    """Give the place of the run in `folder`, or a new one.

    Errors: `TrainingError` when the run there began with other settings, naming the first that differs.
    """
    path = folder / LAST
    if not path.exists():
        return Place(settings=dict(settings))
    content = read_checkpoint(path)
    if "place" not in content:
        raise TrainingError("a checkpoint of this toolkit", "one without a place", where=str(path))
    place = Place.from_state(content["place"])
    for name in (settings.keys() | place.settings.keys()) - FREE:
        began, now = place.settings.get(name, "nothing"), settings.get(name, "nothing")
        if began != now:
            fix = "choose another folder, or remove this one"
            raise TrainingError(f"{name} = {began}, as this run began", now, where=str(folder), fix=fix)
    return place


def save_weights(path: Path, tensors: Mapping[str, Tensor], **facts: Any) -> None:
    """Write tensors as safetensors, atomically, with `facts` as text in its header."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with new_file(path) as beside:
        save_file(whole, beside, metadata={name: str(value) for name, value in facts.items()})


def load_weights(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """Load `prefix.name` tensors into `modules[prefix]`, in place.

    Errors: `TrainingError` when the file is absent, cut short or of other modules.
    """
    try:
        tensors = load_file(path)
        for prefix, module in modules.items():
            own = {n.removeprefix(f"{prefix}."): t for n, t in tensors.items() if n.startswith(f"{prefix}.")}
            module.load_state_dict(own)
    except (OSError, SafetensorError, RuntimeError) as cause:
        found = str(cause).splitlines()[0][:200]
        raise TrainingError("weights of this model", found, where=str(path), fix="train again") from None


class StepLog:
    """log.csv: opened where the checkpoint stands, so that a resumed run repeats no row.

    Floats are written so that reading them gives the same bits.
    """

    def __init__(self, path: Path, columns: list[str], *, after_step: int) -> None:
        self.path, self.columns = path, columns
        kept = [row for row in _rows(path) if int(row["step"]) <= after_step]
        with new_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns, restval="", extrasaction="ignore")

    def write(self, row: Mapping[str, float | int]) -> None:
        """Append a row; it is on disk when this returns."""
        self._writer.writerow({name: repr(value) for name, value in row.items()})
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _rows(path: Path) -> list[dict[str, str]]:
    """Whole rows of a log that a kill may have cut inside its last line."""
    if not path.is_file():
        return []
    text = path.read_text("utf-8")
    whole = text[: text.rfind("\n") + 1]
    return list(csv.DictReader(whole.splitlines()))
