"""The verb `erase`: users leave a store, their counts, and the vectors of runs, and cannot come back by an old file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitus.core.atomic import new_file, write_json
from habitus.core.errors import ConfigError, SourceError
from habitus.data.shards import sha256

if TYPE_CHECKING:
    import polars as pl

    from habitus.data.store import Store

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
        Folders in which tables with a column `user` are rewritten, their manifests renewed and look-alike indexes
        removed.

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
    before = Store.open(store).fingerprint
    done = remove(store, ids, derive=derive_counts, memory_limit=memory_limit)
    after = Store.open(store)
    files: list[Path] = []
    for folder in folders:
        changed = erase_from(folder, ids)
        files += [*changed, *renew_manifests(folder, changed, before, after)]
    still = [file for folder in folders for file in naming(folder, ids)]
    share = done.n_listed / (done.n_listed + after.n_users)
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


def renew_manifests(folder: Path, changed: Sequence[Path], before: str, after: Store) -> list[Path]:
    """Bring the manifests below a folder up to the tables that were rewritten and to the store as it is now.

    Rows, users and hashes of the parts of a folder of answers are those of its files again; a table that was joined
    from parts loses the list of them, as the parts are no more. Manifests of another store stay. Gives what changed.
    """
    found, rewritten = [], {file.resolve() for file in changed}
    for file in sorted(folder.rglob("*.manifest.json")):
        facts = json.loads(file.read_text("utf-8"))
        if not isinstance(facts, dict) or facts.get("store_fingerprint") != before:
            continue
        facts["store_fingerprint"] = after.fingerprint
        table = file.with_name(file.name.removesuffix(".manifest.json"))
        if table.is_dir() and "parts" in facts:
            _renew_parts(facts, table, after)
        elif any(table.with_suffix(suffix).resolve() in rewritten for suffix in TABLES):
            facts.pop("parts", None)
            facts |= {"n_rows": _height(table)} | ({"n_users": after.n_users} if "n_users" in facts else {})
        write_json(file, facts)
        found.append(file)
    return found


def _renew_parts(facts: dict[str, Any], table: Path, after: Store) -> None:
    import polars as pl

    for part, shard in zip(facts["parts"], after.manifest["shards"], strict=True):
        part["n_users"] = shard["n_users"]
        if part["file"]:
            made = table / part["file"]
            part |= {"n_rows": pl.scan_parquet(made).select(pl.len()).collect().item(), "sha256": sha256(made)}
    facts |= {key: sum(part[key] for part in facts["parts"]) for key in ("n_rows", "n_users")}


def _height(table: Path) -> int:
    file = next(table.with_suffix(suffix) for suffix in TABLES if table.with_suffix(suffix).is_file())
    return _read(file).height


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
