"""Write beside, then rename: a reader sees the old thing or the new thing, never half of one."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from habitus.core.errors import DiskError

PARTIAL = ".partial-"


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; rename it onto `path` when the block ends well, remove it when not.

    Errors: `DiskError` when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{path.name}")
        try:
            yield beside
            _sync(beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a new folder beside `path` to fill; rename it to `path` when the block ends well, remove it when not.

    With `replace`, an existing folder at `path` is moved aside first and removed last.
    Errors: `DiskError` when `path` exists and `replace` is false, or when the disk is full.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise DiskError("a new path", "it exists already", where=str(path), fix="choose another path, or remove it")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{path.name}")
        old = beside.with_name(beside.name + "-old")
        beside.mkdir()
        try:
            yield beside
            for file in beside.rglob("*"):
                if file.is_file():
                    _sync(file)
            if path.exists():
                path.rename(old)
            beside.rename(path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            if old.exists() and not path.exists():
                old.rename(path)
            shutil.rmtree(old, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, readable by a person."""
    with new_file(path) as beside:
        beside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", "utf-8")


def plain(value: Any) -> Any:
    """Give values that JSON holds, all the way down: NaN and infinities become None, tuples and arrays lists.

    >>> plain({"a": (1.0, float("nan"))})
    {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "tolist"):  # of NumPy, which this module need not load
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def remove_partial(folder: str | Path) -> None:
    """Remove what a killed run left beside its goal in `folder`."""
    for leftover in Path(folder).glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, or one that may not be written, inside the block into a `DiskError`."""
    try:
        yield
    except OSError as cause:
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            raise DiskError(
                "room to write", f"the disk is full ({free:,} bytes free)", where=str(path), fix="free some space"
            ) from cause
        if cause.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise DiskError("a folder that can be written", os.strerror(cause.errno), where=str(path)) from cause
        raise
