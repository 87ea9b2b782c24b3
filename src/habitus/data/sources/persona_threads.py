"""Threads of a social network, one JSON object per line, streamed: block by block, every line kept or counted.

    {"id": "t1", "cluster_id": 7, "thread": [
        {"user_id": "a9", "relative_integer_time": 812, "text": "..."},
        {"user_id": "c4", "relative_integer_time": 1904, "actions": {"like": true, "unlike": false}}]}

The last message is the action, the one before it the *post*, the first one the root. Lines that cannot be used go to
the rejects with the reason and the place; read = kept + rejected. What is defined rather than rejected: an empty or
absent text is "" and has no key (nothing is looked up by it), numbers as text become text, unknown keys are ignored,
flags that are false are ignored whatever their name. Rows are sorted by a hash of their content (ids left out, the
label too), so neither the order of lines nor the ids can tell a model anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.core.errors import SourceError

if TYPE_CHECKING:
    import duckdb
    import polars as pl

LABELS = ("like", "follow", "repost", "reply", "quote", "unfollow", "unlike", "post_delete", "block", "unrepost",
          "post_update", "unblock")  # fmt: skip
KNOWN = (*LABELS, "post")  # `post` answers nothing, so it is known and not modelled
BLOCK = 48 << 20  # bytes
NO_LABEL = -1

_SHAPE = (
    '{"id":"VARCHAR","cluster_id":"BIGINT","thread":[{"user_id":"VARCHAR","relative_integer_time":"BIGINT",'
    '"text":"VARCHAR","actions":"MAP(VARCHAR,BOOLEAN)"}]}'
)
_PARSED = """
CREATE OR REPLACE TEMP TABLE parsed AS
WITH read AS (SELECT position, from_json(line, '{shape}') AS r, json_array_length(line, '$.thread') AS n FROM lines
              WHERE is_json),
     cut AS (SELECT position, r.id AS id, r.cluster_id AS cluster, coalesce(r.thread, []) AS thread, n,
                    r.thread[-1] AS act, r.thread[-2] AS post, r.thread[1] AS root, r.thread[:-2] AS context FROM read)
SELECT *,
    list_transform(thread, lambda m: m.relative_integer_time) AS ranks,
    list_transform(context, lambda m: m.user_id) AS users,
    CASE WHEN act.actions IS NULL THEN NULL
         ELSE list_transform(list_filter(map_entries(act.actions), lambda e: e.value), lambda e: e.key) END AS told,
    list_bool_or(list_transform(context, lambda m: coalesce(list_bool_or(map_values(m.actions)), false))) AS is_inside
FROM cut
"""
_REASON = """
CASE WHEN n IS NULL OR n = 0 OR len(thread) = 0 THEN 'empty thread'
     WHEN cluster IS NULL THEN 'no persona'
     WHEN len(list_filter(ranks, lambda r: r IS NULL)) > 0 THEN 'no rank'
     WHEN is_inside THEN 'an action inside the thread'
     WHEN {labelled} AND len(told) = 0 THEN 'no action'
     WHEN {labelled} AND len(told) > 1 THEN 'two actions on one message'
     WHEN {labelled} AND told[1] NOT IN ({known}) THEN 'unknown action'
     WHEN {labelled} AND (told[1] = 'post' OR (told IS NULL AND len(thread) = 1)) THEN 'post: answers nothing'
     WHEN len(thread) = 1 THEN 'no post'
END
"""
_ROWS = """
SELECT position, coalesce(id, 'line ' || position) AS thread_id, cluster::INTEGER AS cluster,
    CASE WHEN NOT {labelled} THEN '' ELSE coalesce(told[1], 'reply') END AS action,
    len(context)::INTEGER AS n_context, len(list_distinct(users))::INTEGER AS n_users,
    coalesce(act.user_id = post.user_id, false) AS is_same_author,
    coalesce(act.user_id = root.user_id, false) AS is_root_author,
    len(list_filter(users, lambda u: u = act.user_id))::INTEGER AS n_actor_before,
    ranks[1] AS rank_first, ranks[-2] AS rank_post, ranks[-1] AS rank_action,
    coalesce((ranks[-2] - ranks[1]) / nullif(len(context) - 1, 0), 0)::FLOAT AS gap_mean,
    coalesce(list_stddev_pop(list_transform(list_zip(ranks[2:-2], ranks[1:-3]), lambda z: z[1] - z[2])), 0)::FLOAT
        AS gap_sd,
    coalesce(post.text, '') AS post_text, coalesce(act.text, '') AS reply_text,
    md5_number_lower(concat_ws('\x1f', cluster, ranks::VARCHAR, list_transform(context, lambda m: m.text)::VARCHAR))
        AS content
FROM parsed WHERE ({reason}) IS NULL ORDER BY content, position
"""


@dataclass(frozen=True)
class ThreadBlock:
    """Some lines: `rows` that can be used, `rejected` ones (position, reason), and how many lines were read."""

    rows: pl.DataFrame
    rejected: pl.DataFrame
    n_read: int


def read_threads(path: str | Path, *, is_labelled: bool = True, block: int = BLOCK) -> Iterator[ThreadBlock]:
    """Stream a file, or every *.jsonl of a folder in order of name.

    Parameters
    ----------
    is_labelled
        False for lines to be answered: flags are not read, even if they are there. True: a last message without any
        flags is a `reply`, as in files that only hold texts.

    Rows have: thread_id, cluster, action, n_context, n_users, is_same_author, is_root_author, n_actor_before,
    rank_first, rank_post, rank_action, gap_mean, gap_sd (of the context, in ranks), post_text, reply_text, content
    (a hash of ranks, persona and texts), post_key (a hash of the post's text in normal form, 0 for an empty one),
    position (line number from 1, over all files).

    Errors: `SourceError` when there is no file.

    >>> next(read_threads("no/such/file.jsonl"))
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  a file of threads, or a folder of *.jsonl
    found     no such path
    where     no/such/file.jsonl
    """
    import duckdb

    connection = duckdb.connect(config={"threads": 2})
    connection.execute("SET preserve_insertion_order = true")
    position = 0
    for file in _files(Path(path)):
        for raw in _blocks(file, block):
            yield _read(connection, raw, position, is_labelled)
            position += len(raw)


def text_keys(texts: pl.Series) -> np.ndarray:
    """Give the exact key of texts, uint64 [n]: a hash after NFKC, lower case and single spaces; 0 for an empty text.

    >>> import polars as pl
    >>> a, b, c = text_keys(pl.Series(["Ｆｕｌｌ  width", "full width", " "]))
    >>> (bool(a == b), int(c))
    (True, 0)
    """
    import duckdb
    import polars as pl

    normal = normal_texts(texts)
    distinct = pl.DataFrame({"text": normal.unique()})
    with duckdb.connect() as db:
        db.register("given", distinct.to_arrow())
        found = asked(db, "SELECT text, md5_number_lower(text) AS key FROM given")
    joined = pl.DataFrame({"text": normal}).join(found, on="text", how="left", maintain_order="left")
    return np.where((joined["text"] == "").to_numpy(), 0, joined["key"].cast(pl.UInt64).to_numpy())


def normal_texts(texts: pl.Series) -> pl.Series:
    """Give texts in normal form: NFKC, lower case, single spaces, no spaces at the ends."""
    return texts.fill_null("").str.normalize("NFKC").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()


def asked(db: duckdb.DuckDBPyConnection, sql: str) -> pl.DataFrame:
    """Give the answer to a query as a table."""
    import polars as pl

    found = pl.from_arrow(db.sql(sql).to_arrow_table())
    assert isinstance(found, pl.DataFrame)
    return found


def _files(path: Path) -> list[Path]:
    found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
    if not found:
        missing = "no *.jsonl in it" if path.is_dir() else "no such path"
        raise SourceError("a file of threads, or a folder of *.jsonl", missing, where=str(path))
    return found


def _blocks(path: Path, size: int) -> Iterator[list[bytes]]:
    """Whole lines, about `size` bytes at a time; a line longer than that still comes whole."""
    with path.open("rb") as file:
        rest = b""
        while data := file.read(size):
            whole, newline, rest = (rest + data).rpartition(b"\n")
            if newline:
                yield whole.split(b"\n")
        if rest:
            yield [rest]


def _decoded(raw: list[bytes]) -> list[str | None]:
    try:
        whole: list[str | None] = [*b"\n".join(raw).decode("utf-8").split("\n")]
        return whole
    except UnicodeDecodeError:
        return [_one(line) for line in raw]


def _one(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _read(db: duckdb.DuckDBPyConnection, raw: list[bytes], before: int, is_labelled: bool) -> ThreadBlock:
    import polars as pl
    import pyarrow as pa

    lines: Any = pa.table(
        {
            "position": pa.array(np.arange(before + 1, before + 1 + len(raw))),
            "line": pa.array(_decoded(raw), pa.string()),
        }
    )
    db.register("given", lines)
    db.execute(
        "CREATE OR REPLACE TEMP TABLE lines AS SELECT position, line, "
        "coalesce(json_type(CASE WHEN json_valid(line) THEN line END) = 'OBJECT', false) AS is_json "
        "FROM given"
    )
    db.unregister("given")
    words = {"labelled": str(is_labelled).lower(), "known": ", ".join(f"'{name}'" for name in KNOWN)}
    reason = _REASON.format(**words)
    db.execute(_PARSED.format(shape=_SHAPE))
    broken = (
        "SELECT position, CASE WHEN line IS NULL THEN 'not UTF-8' WHEN trim(line) = '' THEN 'empty line' "
        "ELSE 'bad JSON' END AS reason FROM lines WHERE NOT is_json"
    )
    rejected = asked(
        db,
        f"{broken} UNION ALL SELECT position, reason FROM (SELECT position, {reason} AS reason FROM parsed) "
        "WHERE reason IS NOT NULL ORDER BY position",
    )
    rows = asked(db, _ROWS.format(reason=reason, **words))
    label = pl.col("action").replace_strict(dict(zip(LABELS, range(12))), default=NO_LABEL, return_dtype=pl.Int8)
    keys = text_keys(rows["post_text"])
    rows = rows.with_columns(
        label=label, post_key=pl.Series(keys, dtype=pl.UInt64), content=pl.col("content").cast(pl.UInt64)
    )
    return ThreadBlock(rows, rejected, len(raw))
