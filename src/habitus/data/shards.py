"""Shard files: one Arrow IPC file per shard, one record batch, fixed-width columns without gaps, read by memory map.

The place of every column in the file follows from the number of rows alone, so a shard is written in slices as rows
stream in, and a shard larger than memory is no special case. Text columns, if any, live in a second file per shard.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"time": "<i8", "day": "<i4", "type": "<i4", "item": "<i4", "session": "<i8", "order": "<i8"}
KEYS = ("key_high", "key_low")


@dataclass(frozen=True)
class Columns:
    """The names of a store's columns, by kind; `dtypes` gives the fixed-width ones in file order."""

    has_item: bool
    has_session: bool
    has_order: bool
    has_key: bool
    amounts: tuple[str, ...]
    categories: tuple[str, ...]
    text: tuple[str, ...]

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        chosen = ["time", "day", "type"]
        chosen += [
            n
            for n, there in (("item", self.has_item), ("session", self.has_session), ("order", self.has_order))
            if there
        ]
        found = {name: np.dtype(DTYPES[name]) for name in chosen}
        found |= dict.fromkeys(self.amounts, np.dtype("<f8"))
        found |= dict.fromkeys(self.categories, np.dtype("<i4"))
        if self.has_key:
            found |= dict.fromkeys(KEYS, np.dtype("<i8"))
        return found


class ShardFile:
    """A shard file of a known number of rows, to be filled slice by slice with `write`."""

    def __init__(self, path: Path, n_rows: int, dtypes: Mapping[str, np.dtype]) -> None:
        self.path, self.n_rows, self.dtypes = path, n_rows, dict(dtypes)
        self._handle = path.open("wb", buffering=0)
        self._places = _lay_out(self._handle.fileno(), n_rows, self.dtypes)

    def write(self, name: str, at: int, values: np.ndarray) -> None:
        """Put values at row `at` of a column."""
        dtype = self.dtypes[name]
        data = memoryview(np.ascontiguousarray(values, dtype)).cast("B")
        place = self._places[name] + at * dtype.itemsize
        while len(data):
            done = os.pwrite(self._handle.fileno(), data, place)
            data, place = data[done:], place + done

    def close(self) -> None:
        self._handle.close()


def map_shard(path: Path) -> dict[str, np.ndarray]:
    """Memory-map the columns of a shard file, without copying. Arrays are read-only."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        batch = reader.get_batch(0)
    return {name: batch.column(i).to_numpy(zero_copy_only=True) for i, name in enumerate(batch.schema.names)}


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class _Sink:
    """What pyarrow writes a file into: keeps the frame, skips the bodies, notes where each body begins."""

    closed = False

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.at, self.bodies = descriptor, 0, []

    def write(self, data: Any) -> int:
        import pyarrow as pa

        size = len(data)
        if isinstance(data, pa.Buffer):
            self.bodies.append(self.at)
        else:
            os.pwrite(self.descriptor, bytes(data), self.at)
        self.at += size
        return size

    def tell(self) -> int:
        return self.at

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def _lay_out(descriptor: int, n_rows: int, dtypes: Mapping[str, np.dtype]) -> dict[str, int]:
    """Write the frame of the file around bodies still to come; give each column's place."""
    import pyarrow as pa

    fields = [pa.field(name, pa.from_numpy_dtype(dtype), nullable=False) for name, dtype in dtypes.items()]
    schema = pa.schema(fields)
    sink = _Sink(descriptor)
    blank = pa.py_buffer(mmap.mmap(-1, max(8 * n_rows, 1)))  # never touched, so it costs no memory
    arrays = [
        pa.Array.from_buffers(field.type, n_rows, [None, blank.slice(0, n_rows * dtypes[field.name].itemsize)])
        for field in fields
    ]
    with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    os.truncate(descriptor, sink.at)
    if n_rows == 0:
        return dict.fromkeys(dtypes, 0)
    assert len(sink.bodies) == len(dtypes)
    return dict(zip(dtypes, sink.bodies, strict=True))
