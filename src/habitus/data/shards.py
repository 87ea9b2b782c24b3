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
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

DTYPES = {"time": "<i8", "day": "<i4", "type": "<i4", "item": "<i4", "session": "<i8", "order": "<i8"}
KEYS = ("key_high", "key_low")
TEXT_ROWS = 65_536


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
        try:
            self._places = _lay_out(self._handle.fileno(), n_rows, self.dtypes)
        except BaseException:
            self._handle.close()
            raise

    def write(self, name: str, at: int, values: np.ndarray) -> None:
        """Put values at row `at` of a column."""
        dtype = self.dtypes[name]
        data = np.ascontiguousarray(values, dtype).view(np.uint8).data
        place = self._places[name] + at * dtype.itemsize
        while len(data):
            done = os.pwrite(self._handle.fileno(), data, place)
            data, place = data[done:], place + done

    def close(self) -> None:
        self._handle.close()


class TextFile:
    """The text columns of a shard: an Arrow IPC file of record batches of `TEXT_ROWS` rows, the last one shorter."""

    def __init__(self, path: Path, names: tuple[str, ...]) -> None:
        import pyarrow as pa

        self.path = path
        self._schema = pa.schema([pa.field(name, pa.large_string()) for name in names])
        self._writer = pa.ipc.new_file(str(path), self._schema)
        self._waiting = self._schema.empty_table()

    def write(self, rows: pa.RecordBatch) -> None:
        """Add rows; columns beside the text columns are ignored."""
        import pyarrow as pa

        chosen = pa.Table.from_batches([rows]).select(self._schema.names).cast(self._schema)
        self._waiting = pa.concat_tables([self._waiting, chosen])
        while self._waiting.num_rows >= TEXT_ROWS:
            self._put(self._waiting.slice(0, TEXT_ROWS))
            self._waiting = self._waiting.slice(TEXT_ROWS)

    def close(self) -> None:
        if self._waiting.num_rows:
            self._put(self._waiting)
        self._writer.close()

    def _put(self, rows: pa.Table) -> None:
        import pyarrow as pa

        arrays = [_tidy(column.combine_chunks()) for column in rows.columns]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))


def _tidy(texts: Any) -> pa.Array:
    """Give equal texts equal buffers: offsets from 0, no bytes of other rows, no bitmap where nothing is missing."""
    import pyarrow as pa

    if isinstance(texts, pa.ChunkedArray):
        texts = texts.chunk(0) if texts.num_chunks else pa.array([], texts.type)
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    bitmap = None
    if texts.null_count:
        is_there = texts.is_valid().to_numpy(zero_copy_only=False)
        bitmap = pa.py_buffer(np.packbits(is_there, bitorder="little"))
    body = data.slice(int(ends[0]), int(ends[-1] - ends[0])) if data is not None else None
    return pa.Array.from_buffers(texts.type, len(texts), [bitmap, pa.py_buffer(ends - ends[0]), body])


def map_text(path: Path) -> pa.Table:
    """Memory-map the text columns of a shard."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


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
