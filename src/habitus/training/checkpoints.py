"""Where a run stands, on disk: a run killed at any moment goes on from here with the same next losses.

    last.ckpt            weights, optimiser, place in the data: to resume (tensors and plain values only)
    best.safetensors     the weights to use
    log.csv              one row per `log_every` steps
    tensorboard/         the same, for TensorBoard

Randomness is not saved: every step draws from `derive(seed, "step", step)`.
"""

from __future__ import annotations

import csv
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from habitus.core.atomic import new_file
from habitus.core.errors import TrainingError

FORMAT = 1
LAST, BEST, LOG = "last.ckpt", "best.safetensors", "log.csv"


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
    """Write beside, then rename."""
    with new_file(path) as beside:
        torch.save(dict(content), beside)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read tensors and plain values; nothing in the file is executed.

    Errors: `TrainingError` for a file that is not a whole checkpoint.
    """
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


def read_place(folder: Path, settings: Mapping[str, str]) -> Place:
    """Give the place of the run in `folder`, or a new one.

    Errors: `TrainingError` when the run there began with other settings, naming the first that differs.
    """
    path = folder / LAST
    if not path.is_file():
        return Place(settings=dict(settings))
    content = read_checkpoint(path)
    if "place" not in content:
        raise TrainingError("a checkpoint of this toolkit", "one without a place", where=str(path))
    place = Place.from_state(content["place"])
    for name in settings.keys() | place.settings.keys():
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
