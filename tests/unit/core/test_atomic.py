"""Atomic writes: the old thing or the new thing, whatever goes wrong between."""

import errno
import os

import pytest

from habitus.core.atomic import PARTIAL, new_file, new_folder, remove_partial, write_json
from habitus.core.errors import DiskError


def _no_leftovers(folder):
    return not [p for p in folder.iterdir() if p.name.startswith(PARTIAL)]


def _write_and_fail(path):
    path.write_text("half")
    raise ZeroDivisionError


def test_a_failed_write_leaves_the_old_file(tmp_path):
    goal = tmp_path / "a.txt"
    goal.write_text("old")
    with pytest.raises(ZeroDivisionError), new_file(goal) as beside:
        _write_and_fail(beside)
    assert goal.read_text() == "old"
    assert _no_leftovers(tmp_path)


def test_a_good_write_replaces_and_makes_folders(tmp_path):
    goal = tmp_path / "deep" / "a.json"
    write_json(goal, {"b": 1})
    write_json(goal, {"b": 2})
    assert goal.read_text() == '{\n "b": 2\n}\n'
    assert _no_leftovers(goal.parent)


def test_json_with_nan_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    goal = tmp_path / "store"
    goal.mkdir()
    (goal / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), new_folder(goal, replace=True) as beside:
        _write_and_fail(beside / "new")
    assert [p.name for p in goal.iterdir()] == ["old"]
    assert _no_leftovers(tmp_path)


def test_a_folder_is_not_overwritten_unasked(tmp_path):
    (tmp_path / "store").mkdir()
    with pytest.raises(DiskError, match="exists already"), new_folder(tmp_path / "store"):
        pass
    with new_folder(tmp_path / "store", replace=True) as beside:
        (beside / "new").write_text("new")
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["new"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_or_closed_disk_is_one_clear_error(tmp_path, code):
    with pytest.raises(DiskError) as caught, new_file(tmp_path / "a"):
        raise OSError(code, os.strerror(code))
    assert str(tmp_path) in str(caught.value)


def test_what_a_kill_left_is_removed(tmp_path):
    (tmp_path / f"{PARTIAL}x").mkdir()
    (tmp_path / f"{PARTIAL}x" / "f").write_text("half")
    (tmp_path / f"{PARTIAL}y").write_text("half")
    (tmp_path / "kept").write_text("whole")
    remove_partial(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
