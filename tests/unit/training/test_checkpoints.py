"""What lies on disk while a run goes on."""

import csv
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from habitus.core.errors import TrainingError
from habitus.training.checkpoints import (
    LAST,
    Place,
    StepLog,
    load_weights,
    read_checkpoint,
    read_place,
    save_weights,
    write_checkpoint,
)


class Evil:
    """What a checkpoint must never be able to do."""

    def __reduce__(self) -> tuple:
        return print, ("code was run",)


def test_a_place_comes_back(tmp_path: Path) -> None:
    place = Place({"lr": "0.1"}, epoch=2, batch=3, step=17, loader={"batch": 3}, history=[{"epoch": 1, "valid": 0.1}])
    write_checkpoint(tmp_path / LAST, {"place": place.to_state(), "weights": [torch.ones(2)]})
    assert read_place(tmp_path, {"lr": "0.1"}) == place
    assert [f.name for f in tmp_path.iterdir()] == [LAST]


def test_a_folder_without_a_run_starts_one(tmp_path: Path) -> None:
    assert read_place(tmp_path, {"lr": "0.1"}) == Place({"lr": "0.1"})


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / LAST, {"place": Place({"lr": "0.1", "seed": "0"}).to_state()})
    with pytest.raises(TrainingError, match=r"lr = 0\.1, as this run began"):
        read_place(tmp_path, {"lr": "0.2", "seed": "0"})


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pickled.ckpt").write_bytes(pickle.dumps(Evil()))
    torch.save({"place": Evil()}, tmp_path / "saved.ckpt")
    for name in ("pickled.ckpt", "saved.ckpt"):
        with pytest.raises(TrainingError, match="remove the file"):
            read_checkpoint(tmp_path / name)
    assert "code was run" not in capsys.readouterr().out


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / LAST, {"place": Place().to_state(), "weights": torch.ones(1000)})
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:2000])
    with pytest.raises(TrainingError, match="a checkpoint of this toolkit"):
        read_place(tmp_path, {})


def test_weights_are_loaded_by_prefix_and_must_fit(tmp_path: Path) -> None:
    one, two = nn.Linear(2, 3), nn.Linear(2, 3)
    tensors = {f"model.{n}": t for n, t in one.state_dict().items()}
    save_weights(tmp_path / "w.safetensors", tensors, epoch=3)
    load_weights(tmp_path / "w.safetensors", {"model": two})
    assert torch.equal(one.weight, two.weight)
    with pytest.raises(TrainingError, match="weights of this model"):
        load_weights(tmp_path / "w.safetensors", {"model": nn.Linear(2, 4)})
    with pytest.raises(TrainingError, match="weights of this model"):
        load_weights(tmp_path / "none.safetensors", {"model": two})


def test_a_resumed_log_repeats_no_row_and_drops_a_torn_line(tmp_path: Path) -> None:
    file, columns = tmp_path / "log.csv", ["step", "loss"]
    log = StepLog(file, columns, after_step=0)
    values = [0.1, 1 / 3, 1e-17, 2.0]
    for step, value in enumerate(values, start=1):
        log.write({"step": step, "loss": value})
    log.close()
    file.write_text(file.read_text() + "5,0.")  # killed inside a line
    log = StepLog(file, columns, after_step=3)
    log.write({"step": 4, "loss": 7.0})
    log.close()
    with file.open(newline="") as handle:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(handle)]
    assert rows == [(1, 0.1), (2, 1 / 3), (3, 1e-17), (4, 7.0)]
