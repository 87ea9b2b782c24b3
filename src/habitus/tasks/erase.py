"""The verb `erase`: users leave a store, their counts, and the vectors of runs, and cannot come back by an old file."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from habitus.core.atomic import new_file
from habitus.core.errors import ConfigError, SourceError

if TYPE_CHECKING:
    import polars as pl

REFIT = 0.01
TABLES = (".parquet", ".csv")
INDEX = ("index.json", "vectors.faiss")  # what a folder with a look-alike index holds: it is made anew on demand


@dataclass(frozen=True)
class Erasure:
    """What was removed, and what was not undone.

    `files` were rewritten or removed outside the store; `still_named` are files of the runs that hold an id in plain
    bytes. `share` is that of all erased users among all that ever were; above `REFIT` a new fit is due.
    """

    n_users: int
    n_events: int
    n_rejected: int
    unknown: tuple[str, ...]
    files: tuple[Path, ...]
    still_named: tuple[Path, ...]
    share: float

    def summary(self) -> str:
        """Say it in a few lines."""
        lines = [f"erased {self.n_users:,} users: {self.n_events:,} events, {self.n_rejected:,} rejected rows"]
        if self.unknown:
            lines.append(f"{len(self.unknown):,} ids that no user had; they are kept out from now on")
        lines += [f"rewritten or removed: {file}" for file in self.files]
        lines += [f"still holds an id: {file}" for file in self.still_named]
        lines.append(
            f"not undone: codebook, idf and weights were fitted with them ({self.share:.2%} of all users so far)"
            + (": fit again" if self.share > REFIT else "")
        )
        return "\n".join(lines)


def erase(
    store: str | Path,
    users: str | Path | Sequence[str | int],
    *,
    runs: Iterable[str | Path] = (),
    memory_limit: str | int = "4GB",
) -> Erasure:
    """Remove users for good from a store and from the vectors of runs; others keep every value, bit for bit.

    Parameters
    ----------
    store
        Its events, profiles, audiences, rejected rows and counts of interests lose the users. A list of salted hashes
        keeps them out: later rows of theirs are rejected as "erased".
    users
        Their ids, or a file (CSV or Parquet) with a column `user`.
    runs
        Folders in which tables with a column `user` are rewritten and look-alike indexes removed.

    What was fitted with them (codebook, idf, weights) is not undone; the answer gives their share and proposes a new
    fit above 1 %. Errors: `SourceError` for a file without users; those of `data.erase`.

    >>> import polars, tempfile
    >>> from habitus.tasks.ingest import ingest
    >>> schema, path = {"events": {"user": "u", "time": "t", "type": "k"}}, tempfile.mkdtemp() + "/tiny.store"
    >>> table = polars.DataFrame({"u": ["a", "b"], "t": ["2024-05-01"] * 2, "k": ["visit"] * 2})
    >>> _ = ingest(table, path, schema=schema)
    >>> erase(path, ["a"]).n_users
    1
    """
    from habitus.data.erase import erase as remove
    from habitus.data.store import Store
    from habitus.tokens.stored_counts import derive_counts

    ids = _ids(users)
    folders = [Path(run) for run in runs]
    for folder in folders:
        if not folder.is_dir():
            raise SourceError("a run folder", "no such folder", where=str(folder), fix="check the path")
    done = remove(store, ids, derive=derive_counts, memory_limit=memory_limit)
    files = [file for folder in folders for file in erase_from(folder, ids)]
    still = [file for folder in folders for file in naming(folder, ids)]
    left = Store.open(store).n_users
    share = done.n_listed / (done.n_listed + left)
    return Erasure(done.n_users, done.n_events, done.n_rejected, done.unknown, tuple(files), tuple(still), share)


def erase_from(folder: Path, ids: Sequence[str]) -> list[Path]:
    """Rewrite the tables below a folder that have a column `user`, remove its indexes; give what changed."""
    changed = []
    for index in sorted(file.parent for file in folder.rglob(INDEX[0]) if (file.parent / INDEX[1]).is_file()):
        shutil.rmtree(index)
        changed.append(index)
    for file in sorted(folder.rglob("*")):
        if file.suffix in TABLES and file.is_file() and _rewrite(file, ids):
            changed.append(file)
    return changed


def naming(folder: Path, ids: Sequence[str]) -> list[Path]:
    """List files below a folder that hold an id of four characters or more in plain bytes."""
    words = [one.encode() for one in ids if len(one) >= 4]
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        if any(word in content for word in words):
            found.append(file)
    return found


def _rewrite(file: Path, ids: Sequence[str]) -> bool:
    """Take the rows of the users out of a table; say whether there were any."""
    import polars as pl

    table = pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, infer_schema=False)
    if "user" not in table.columns:
        return False
    kept = table.filter(~pl.col("user").cast(pl.String).is_in(list(ids)).fill_null(False))
    if kept.height == table.height:
        return False
    with new_file(file) as beside:
        kept.write_parquet(beside, compression="zstd") if file.suffix == ".parquet" else kept.write_csv(beside)
    return True


def _ids(users: str | Path | Sequence[str | int]) -> list[str]:
    if not isinstance(users, str | Path):
        return [str(user) for user in users]
    table = _read(Path(users))
    if "user" not in table.columns:
        raise SourceError("a column 'user'", ", ".join(table.columns), where=str(users), fix="name the column user")
    found = table["user"].drop_nulls().cast(str).to_list()
    if not found:
        raise ConfigError("at least one user", "none", where=str(users))
    return found


def _read(file: Path) -> pl.DataFrame:
    import polars as pl

    try:
        return pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as cause:
        raise SourceError("a file of users (CSV or Parquet)", str(cause)[:200], where=str(file)) from cause
