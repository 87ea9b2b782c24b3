"""Folders on file systems that are not mounted: S3 and others, by way of Arrow or fsspec.

There is no rename there, so a manifest is what makes a folder whole: files are uploaded first, under names that carry
their hash where they may change, and the manifest last. A reader that has the manifest finds all it names.
What is read is kept below `HABITUS_CACHE` (default ~/.cache/habitus), one folder per address.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.atomic import new_file
from habitus.core.errors import DiskError

if TYPE_CHECKING:
    from pyarrow import fs

SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss", "az", "mock")
ARROW = ("s3", "gs", "gcs", "hdfs", "viewfs", "mock")  # the others by fsspec, with the package it asks for
_ADDRESS = re.compile(rf"^({'|'.join(SCHEMES)}):/+(.+)$")
MANIFESTS = ("manifest.json", ".manifest.json")  # how names of files end that come last


def address_of(path: Any) -> str | None:
    """Give the address when `path` names a folder or file elsewhere; a `Path`, which loses a slash, is understood.

    >>> address_of(Path("s3://shop/log.store")), address_of("shop/log.store")
    ('s3://shop/log.store', None)
    """
    match = _ADDRESS.match(str(path)) if isinstance(path, str | Path) else None
    return f"{match[1]}://{match[2]}" if match else None


def shown(address: str) -> str:
    """Give an address without what may be secret: user, password, options.

    >>> shown("s3://key:secret@shop/log.store?region=eu-central-1")
    's3://shop/log.store'
    """
    return re.sub(r"://[^/@]*@", "://", address.partition("?")[0])


def joined(address: str, name: str) -> str:
    """Give the address of a file below another.

    >>> joined("s3://shop/log.store?region=eu-central-1", "manifest.json")
    's3://shop/log.store/manifest.json?region=eu-central-1'
    """
    path, sign, options = address.partition("?")
    return f"{path.rstrip('/')}/{name}{sign}{options}"


def mirror(address: str) -> Path:
    """Give the folder on this machine where what is read from an address is kept."""
    root = Path(os.environ.get("HABITUS_CACHE", Path.home() / ".cache" / "habitus"))
    plain = shown(address).rstrip("/")
    return root / hashlib.sha256(plain.encode()).hexdigest()[:16] / plain.rpartition("/")[2]


def exists(address: str) -> bool:
    """Tell whether there is a file. Errors: `DiskError` when nobody answers."""
    from pyarrow import fs

    with _told(address):
        system, path = _system(address)
        return system.get_file_info(path).type == fs.FileType.File


def listed(address: str) -> list[str]:
    """List the files below an address, by their names relative to it."""
    from pyarrow import fs

    with _told(address):
        system, path = _system(address)
        found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        return sorted(info.path[len(path) :].lstrip("/") for info in found if info.type == fs.FileType.File)


def fetch(address: str, goal: Path) -> Path:
    """Copy a file here, beside, then renamed. Errors: `DiskError` when it is not there, or nobody answers."""
    with _told(address), new_file(goal) as beside:
        system, path = _system(address)
        with system.open_input_stream(path) as source, beside.open("wb") as target:
            shutil.copyfileobj(source, target, 2**22)
    return goal


def read(address: str) -> bytes:
    """Read a small file, and keep nothing."""
    with _told(address):
        system, path = _system(address)
        with system.open_input_stream(path) as source:
            return source.read()


def fetch_folder(address: str, goal: Path, *, without: str = "") -> Path:
    """Copy a folder here, manifests last; files whose name begins with `without` stay away."""
    names = [name for name in listed(address) if not (without and name.startswith(without))]
    if not names:
        raise DiskError("a folder with files", "none", where=shown(address), fix="check the address")
    for name in _manifests_last(names):
        fetch(joined(address, name), goal / name)
    return goal


def push(folder: Path, address: str, names: Iterable[str] | None = None) -> None:
    """Upload files of a folder, manifests last; an upload that breaks off leaves the older manifest, or none.

    Errors: `DiskError` when the address cannot be written.
    """
    every = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    with _told(address):
        system, path = _system(address)
        for name in _manifests_last(every if names is None else names):
            with (folder / name).open("rb") as source, system.open_output_stream(f"{path}/{name}") as target:
                shutil.copyfileobj(source, target, 2**22)


def remove(address: str, names: Iterable[str]) -> None:
    """Remove files below an address."""
    with _told(address):
        system, path = _system(address)
        for name in names:
            system.delete_file(f"{path}/{name}")


@contextmanager
def staged(out: Any) -> Iterator[Any]:
    """Give a path on this machine to write to, whose files go to `out` when the block ends well.

    A path of this machine is given as it is. What a killed call left here is found again by the same call.
    """
    address = address_of(out)
    if address is None:
        yield out
        return
    plain, _, options = address.partition("?")
    above, _, name = plain.rstrip("/").rpartition("/")
    folder = mirror(address).parent / "out"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder / name
    push(folder, above + (f"?{options}" if options else ""))
    shutil.rmtree(folder.parent, ignore_errors=True)


def _manifests_last(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (name.endswith(MANIFESTS), "/" not in name, name))


def _system(address: str) -> tuple[fs.FileSystem, str]:
    """Give the file system and the path in it."""
    from pyarrow import fs

    if address.partition(":")[0] in ARROW:
        system, path = fs.FileSystem.from_uri(address)
        return system, path.rstrip("/")
    from fsspec.core import url_to_fs

    other, path = url_to_fs(address)
    return fs.PyFileSystem(fs.FSSpecHandler(other)), path.rstrip("/")


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Turn what a file system raises into a `DiskError` without secrets."""
    try:
        yield
    except DiskError:
        raise
    except (OSError, ImportError, ValueError) as cause:
        found = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]
        fix = "check the address, the credentials (AWS_ACCESS_KEY_ID, ...) and the network"
        raise DiskError("a file system that answers", found, where=shown(address), fix=fix) from cause
