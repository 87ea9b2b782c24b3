"""A world as a folder of files: written block by block, so that any number of users and days fits in memory."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from habitus.core.atomic import new_folder
from habitus.core.config import read_toml
from habitus.core.errors import ConfigError, SourceError
from habitus.core.progress import bar
from habitus.core.seeds import uniforms
from habitus.data.sources.simulator.draw import EVENT_SCHEMA, block_size, draw_blocks
from habitus.data.sources.simulator.rates import Plan, audience_rows, calendar_of, calendar_row, occurrences_of
from habitus.data.sources.simulator.truth import changes, effect_blocks, last_cutoff
from habitus.data.sources.simulator.users import Users, users_of
from habitus.data.sources.simulator.world import World

if TYPE_CHECKING:
    from habitus.data.calendar import Calendar
    from habitus.data.log import EventLog

SCHEMA = Path(__file__).with_name("schema.toml")


def write(
    world: World,
    folder: str | Path,
    *,
    shuffle: bool = True,
    n_files: int = 8,
    horizon: int = 28,
    cutoff: dt.date | None = None,
    with_truth: bool = True,
    change: Calendar | None = None,
    replace: bool = False,
) -> Path:
    """Write a world as a folder; the same arguments give the same bytes.

        events/part-000.parquet ..   user, time, type, item, spend
        profiles.parquet             user, segment (the user type, or a random one), joined
        items.parquet                item, interest, rank
        calendar.csv, audiences.parquet
        truth.parquet                see `effects`, at `cutoff` (default: the last one with a whole window)
        change.parquet               see `changes`, if a calendar `change` is given
        schema.toml, world.json

    With `shuffle`, rows are out of time order and every user's are scattered over all files, as in a real dump that
    was never sorted; without, they are sorted by user and time within each file. Memory is that of one block.
    Errors: `DiskError` when the folder exists (see `replace`) or the disk is full.
    """
    with new_folder(folder, replace=replace) as beside:
        _write_events(world, beside / "events", shuffle, n_files)
        _write_users(world, beside)
        _items_table(world).write_parquet(beside / "items.parquet")
        rows = [calendar_row(world, o) for o in occurrences_of(world)]
        if rows:
            pl.DataFrame(rows, infer_schema_length=None).write_csv(beside / "calendar.csv")
        if with_truth and world.n_days > horizon:
            _write_truth(world, beside / "truth.parquet", cutoff or last_cutoff(world, horizon), horizon)
        if change is not None:
            table = changes(world, cutoff or last_cutoff(world, horizon), horizon, change, calendar_of(world))
            table.write_parquet(beside / "change.parquet")
        shutil.copyfile(SCHEMA, beside / "schema.toml")
        (beside / "world.json").write_text(world.model_dump_json(indent=1) + "\n", "utf-8")
    return Path(folder)


def read_world(path: str | Path) -> World:
    """Read a world from TOML, from JSON, or from a folder that `write` made.

    Errors: `ConfigError` for a missing or malformed file or an unknown key.
    """
    path = Path(path)
    path = path / "world.json" if path.is_dir() else path
    if path.suffix != ".json":
        return World.parse(read_toml(path), where=str(path))
    try:
        return World.parse(json.loads(path.read_text("utf-8")), where=str(path))
    except FileNotFoundError:
        raise ConfigError("a world: TOML, JSON, or a folder with world.json", "no such file", where=str(path)) from None
    except json.JSONDecodeError as cause:
        raise ConfigError("valid JSON", str(cause), where=str(path)) from None


def simulated_log(world: World | str | Path) -> EventLog:
    """Give the log of a world: from a folder that `write` made, or, for a small `World`, drawn in memory.

    Errors: `SourceError` for a folder that `write` did not make.

    >>> log = simulated_log(World(n_users=20, n_days=30))
    >>> log.schema.name
    'simulated world'
    """
    from habitus.data.calendar import read_calendar
    from habitus.data.log import EventLog
    from habitus.data.schema import Schema

    if isinstance(world, World):
        events = pa.concat_tables([EVENT_SCHEMA.empty_table(), *draw_blocks(world)])
        profiles = _profiles(world, users_of(world))
        schema = Schema.parse(read_toml(SCHEMA), where=str(SCHEMA))
        return EventLog(schema, events, profiles, _items_table(world), calendar_of(world))
    folder = Path(world)
    parts = sorted(str(p) for p in (folder / "events").glob("part-*.parquet"))
    if not parts:
        raise SourceError("a folder with events/part-*.parquet", "none", where=str(folder), fix="habitus simulate")
    calendar = None
    if (folder / "calendar.csv").is_file():
        audiences = folder / "audiences.parquet"
        calendar = read_calendar(folder / "calendar.csv", audiences if audiences.is_file() else None)
    schema = Schema.parse(read_toml(folder / "schema.toml"), where=str(folder / "schema.toml"))
    return EventLog(schema, parts, folder / "profiles.parquet", folder / "items.parquet", calendar)


def _write_events(world: World, folder: Path, shuffle: bool, n_files: int) -> None:
    """Each block is dealt to all files (shuffled), or goes whole to one of them (in order)."""
    folder.mkdir()
    n_blocks = -(-world.n_users // block_size(world))
    n_files = n_files if shuffle else max(min(n_files, n_blocks), 1)
    with ExitStack() as stack, bar("simulating", n_blocks) as advance:
        writers = [
            stack.enter_context(pq.ParquetWriter(folder / f"part-{i:03}.parquet", EVENT_SCHEMA, compression="zstd"))
            for i in range(n_files)
        ]
        for block, table in enumerate(draw_blocks(world, shuffle=shuffle)):
            if shuffle:
                bounds = np.linspace(0, table.num_rows, n_files + 1).astype(int)
                for writer, low, high in zip(writers, bounds, bounds[1:]):
                    writer.write_table(table.slice(low, high - low))
            else:
                writers[block * n_files // n_blocks].write_table(table)
            advance(1)


def _write_truth(world: World, path: Path, cutoff: dt.date, horizon: int) -> None:
    with ExitStack() as stack:
        writer = None
        for block in effect_blocks(world, cutoff, horizon):
            rows = block.to_arrow()
            writer = writer or stack.enter_context(pq.ParquetWriter(path, rows.schema, compression="zstd"))
            writer.write_table(rows)


def _write_users(world: World, folder: Path) -> None:
    """profiles.parquet and audiences.parquet, a step of users at a time."""
    step, plan = 200_000, Plan.of(world)
    profiles = audiences = None
    with ExitStack() as stack:
        for first in range(0, max(world.n_users, 1), step):
            users = users_of(world, first, min(step, world.n_users - first))
            rows = _profiles(world, users).to_arrow()
            profiles = profiles or stack.enter_context(pq.ParquetWriter(folder / "profiles.parquet", rows.schema))
            profiles.write_table(rows)
            groups = audience_rows(plan, users).to_arrow()
            if groups.num_rows:
                goal = folder / "audiences.parquet"
                audiences = audiences or stack.enter_context(pq.ParquetWriter(goal, groups.schema))
                audiences.write_table(groups)


def _profiles(world: World, users: Users) -> pl.DataFrame:
    names = np.array([t.name for t in world.user_types])
    random = np.floor(uniforms(world.seed, users.number, stream="shown type") * len(names)).astype(np.int64)
    is_wrong = uniforms(world.seed, users.number, stream="is shown wrong") < world.profile_noise
    joined = np.datetime64(world.start, "D") + users.joined
    shown = names[np.where(is_wrong, random, users.type)]
    return pl.DataFrame(
        {"user": users.number, "segment": shown.tolist(), "joined": joined.astype("datetime64[D]")},
        schema_overrides={"segment": pl.String},
    )


def _items_table(world: World) -> pl.DataFrame:
    item = np.arange(world.items.n_items, dtype=np.int32)
    rank, interest = np.divmod(item, world.items.n_interests)
    return pl.DataFrame({"item": item, "interest": [f"interest {i}" for i in interest], "rank": rank})
