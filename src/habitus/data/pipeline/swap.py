"""Changing a store in place: new files lie beside the old ones under other names, then the manifest is replaced.

A process that is killed at any instant leaves the old manifest with the old files, or the new manifest with the new
files; whatever no manifest names is swept away before the next change.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from habitus.core.atomic import PARTIAL, disk_errors, write_json
from habitus.core.errors import StoreError
from habitus.data.store import MANIFEST, Store, derived_of, files_of


@contextmanager
def changing(path: Path) -> Iterator[tuple[Store, Path]]:
    """Lock a store, sweep it, and give it with an empty folder to work in, which goes away in the end.

    Errors: `StoreError` when it is no store or another process is changing it; `DiskError` when the disk is full.
    """
    Store.open(path)
    with disk_errors(path), _opened(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(
                "a store nobody else is changing", "another process is", where=str(path), fix="wait"
            ) from None
        store = Store.open(path)  # another process may have changed it before the lock was ours
        sweep(store)
        staging = path / f"{PARTIAL}{uuid.uuid4().hex[:8]}"
        staging.mkdir()
        try:
            yield store, staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            sweep(Store.open(path))


def adopt(staging: Path, path: Path, manifest: Mapping[str, Any]) -> None:
    """Move the finished files of `manifest` from `staging` into the store at `path`, then make it the store's own."""
    for entry in files_of(manifest):
        made = staging / entry["file"]
        if made.exists():
            (path / entry["file"]).parent.mkdir(parents=True, exist_ok=True)
            made.replace(path / entry["file"])
    folders = {path / "tables", path / "shards", *((path / entry["file"]).parent for entry in derived_of(manifest))}
    for folder in sorted(folders):
        with _opened(folder) as descriptor:
            os.fsync(descriptor)
    write_json(path / MANIFEST, manifest)


def sweep(store: Store) -> None:
    """Remove what the manifest does not name: leftovers of a change that was killed, or the state before this one."""
    named = {store.path / entry["file"] for entry in files_of(store.manifest)}
    for leftover in store.path.glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    for folder in ("tables", "shards"):
        for file in (store.path / folder).iterdir():
            if file not in named:
                file.unlink()
    for folder in store.path.glob("interests/*"):
        if not any(file in named for file in folder.iterdir()):
            shutil.rmtree(folder)
            continue
        for file in folder.iterdir():
            if file not in named:
                file.unlink()


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Lock a folder that is being filled, so that another process can tell it from one whose process was killed."""
    with _opened(folder) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def remove_dead(path: Path) -> None:
    """Remove the half-made folders beside `path` that a killed ingest of this name left: nobody holds their lock."""
    if not path.parent.is_dir():
        return
    for leftover in path.parent.glob(f"{PARTIAL}????????-{path.name}"):
        with suppress(OSError), claimed(leftover):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
