"""A raw stream of commits of a social network (Bluesky's Jetstream form) as actions on posts.

    {"did": "did:plc:a", "time_us": 1, "commit": {"operation": "create", "collection": "app.bsky.feed.like",
     "rkey": "k", "record": {"subject": {"uri": "at://did:plc:b/app.bsky.feed.post/p"}}}}

like, repost, follow, block: a create is the action, a delete its undo. A delete has no record, so it joins its create
by (did, collection, rkey). feed.post: a reply where it has a parent, a quote where it embeds a feed.post (with media or
without), else a post; update and delete are post_update and post_delete. Time is `time_us`; what a client claims
(`createdAt`) is not read. What an action is on: the post itself; for follow and block the latest text of that user
before the action; for replies the parent, with its ancestors above it (5 messages at most).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from habitus.core.errors import SourceError
from habitus.data.sources.persona_threads import asked

if TYPE_CHECKING:
    import duckdb
    import polars as pl

_EVENTS = """
CREATE TABLE events AS
WITH lines AS (SELECT row_number() OVER () AS position, line FROM read_csv({paths}, columns = {{'line': 'VARCHAR'}},
        header = false, delim = '\x02', quote = '', escape = '', strict_mode = false, max_line_size = 16777216)),
     read AS (SELECT position, CASE WHEN json_valid(line) THEN line END AS j FROM lines),
     cut AS (SELECT position, j, json_extract_string(j, '$.did') AS did,
                    TRY_CAST(json_extract_string(j, '$.time_us') AS BIGINT) AS time_us,
                    json_extract_string(j, '$.commit.operation') AS operation,
                    json_extract_string(j, '$.commit.collection') AS collection,
                    json_extract_string(j, '$.commit.rkey') AS rkey, json_extract(j, '$.commit.record') AS record
             FROM read)
SELECT position, did, time_us, operation, collection, rkey,
       'at://' || did || '/' || collection || '/' || rkey AS uri,
       coalesce(json_extract_string(record, '$.subject.uri'), json_extract_string(record, '$.subject')) AS subject,
       json_extract_string(record, '$.text') AS text,
       json_extract_string(record, '$.langs[0]') AS lang, json_array_length(record, '$.langs') AS n_langs,
       json_extract_string(record, '$.reply.parent.uri') AS parent,
       coalesce(json_extract_string(record, '$.embed.record.record.uri'),
                json_extract_string(record, '$.embed.record.uri')) AS embedded,
       CASE WHEN j IS NULL THEN 'bad JSON'
            WHEN did IS NULL OR time_us IS NULL OR rkey IS NULL OR operation IS NULL THEN 'no user, time or key'
            WHEN collection NOT IN ('app.bsky.feed.like', 'app.bsky.feed.repost', 'app.bsky.graph.follow',
                                    'app.bsky.graph.block', 'app.bsky.feed.post') THEN 'another collection'
            WHEN operation NOT IN ('create', 'update', 'delete') THEN 'another operation' END AS reason
FROM cut
"""
_ACTIONS = """
CREATE TABLE actions AS
WITH good AS (SELECT *, row_number() OVER (ORDER BY time_us, position) AS rank FROM events WHERE reason IS NULL),
     made AS (SELECT * FROM good WHERE operation = 'create'),
     named AS (
        SELECT g.position, g.did, g.rank, g.uri, g.text, g.lang, g.n_langs, g.parent, g.operation, g.collection,
               split_part(g.collection, '.', 4) AS kind,
               CASE WHEN g.operation = 'delete' THEN m.subject ELSE g.subject END AS subject,
               CASE WHEN contains(g.embedded, '/app.bsky.feed.post/') THEN g.embedded END AS quoted,
               g.operation = 'delete' AND m.uri IS NULL AS is_orphan
        FROM good g ASOF LEFT JOIN made m ON g.uri = m.uri AND m.rank < g.rank)
SELECT *, CASE WHEN kind = 'post' THEN
                   CASE operation WHEN 'update' THEN 'post_update' WHEN 'delete' THEN 'post_delete'
                        ELSE CASE WHEN parent IS NOT NULL THEN 'reply' WHEN quoted IS NOT NULL THEN 'quote'
                                  ELSE 'post' END END
               WHEN operation = 'delete' THEN 'un' || kind ELSE kind END AS action
FROM named;
CREATE TABLE posts AS
SELECT uri, did, min(rank) AS rank, arg_min(text, rank) AS text, arg_min(lang, rank) AS lang,
       arg_min(n_langs, rank) AS n_langs, arg_min(parent, rank) AS parent
FROM actions WHERE kind = 'post' AND operation = 'create' GROUP BY uri, did;
"""
_ON = """
CREATE TABLE acted AS
WITH texts AS (SELECT did, rank, uri FROM posts),
     to_user AS (SELECT a.position, t.uri AS post FROM
                 (SELECT position, rank, subject FROM actions WHERE kind IN ('follow', 'block')) a
                 ASOF LEFT JOIN texts t ON a.subject = t.did AND t.rank < a.rank)
SELECT a.position, a.did, a.rank, a.action, a.text, a.is_orphan,
       CASE WHEN a.action IN ('reply') THEN a.parent WHEN a.action = 'quote' THEN a.quoted
            WHEN a.action IN ('post_update', 'post_delete') THEN a.uri
            WHEN a.kind IN ('follow', 'block') THEN u.post ELSE a.subject END AS post
FROM actions a LEFT JOIN to_user u USING (position) WHERE a.action <> 'post'
"""
PATH = 5


@dataclass
class Dump:
    """A read stream: tables `actions`, `posts` and `acted` in a DuckDB connection."""

    db: duckdb.DuckDBPyConnection
    n_read: int
    reasons: dict[str, int]

    def close(self) -> None:
        """Let the memory go."""
        self.db.close()

    def texts(self, languages: tuple[str, ...] = ("en",)) -> pl.DataFrame:
        """Give did, rank and text of posts whose only language is one of these; all posts for no language."""
        names = ", ".join("'" + name.replace("'", "''") + "'" for name in languages)
        where = f"AND n_langs = 1 AND lang IN ({names})" if languages else ""
        has_text = "trim(coalesce(text, '')) <> ''"
        return asked(self.db, f"SELECT did, rank, text FROM posts WHERE {has_text} {where} ORDER BY rank")

    def last_rank(self) -> int:
        """Give the rank of the last commit."""
        return int(asked(self.db, "SELECT coalesce(max(rank), 0) AS n FROM actions")["n"][0])


def read_commits(path: str | Path, *, memory: str = "2GB") -> Dump:
    """Read a file, or every *.jsonl of a folder, into an indexed `Dump`; unusable lines are counted by reason.

    Errors: `SourceError` without a file or a usable line.

    >>> read_commits("no/such/dump.jsonl")
    Traceback (most recent call last):
    ...
    habitus.core.errors.SourceError: expected  a file of commits, or a folder of *.jsonl
    found     no such path
    where     no/such/dump.jsonl
    """
    import duckdb

    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise SourceError("a file of commits, or a folder of *.jsonl", "no such path", where=str(path))
    db = duckdb.connect(config={"threads": 2, "memory_limit": memory})
    names = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
    db.execute(_EVENTS.format(paths=f"[{names}]"))
    counts = asked(db, "SELECT coalesce(reason, '') AS reason, count(*) AS n FROM events GROUP BY 1 ORDER BY 1")
    reasons = dict(counts.rows())
    n_read, n_good = sum(reasons.values()), reasons.pop("", 0)
    if not n_good:
        raise SourceError("commits that can be used", f"{n_read} lines, none of them", where=str(path))
    for statement in (*_ACTIONS.split(";"), _ON):
        if statement.strip():
            db.execute(statement)
    return Dump(db, n_read, reasons)


_HIDE = (
    (r"https?://\S+|www\.\S+", "<URL>"), (r"[\w.+-]+@[\w-]+\.[\w.]+", "<EMAIL>"), (r"@[\w.-]+", ""),
    (r"\b\d{1,3}(\.\d{1,3}){3}\b", "<IP>"), (r"\b\d(?:[ -]?\d){12,18}\b", "<CARD>"),
    (r"\+?\d[\d ()-]{7,}\d", "<PHONE>"),
)  # fmt: skip


def hidden(column: str) -> str:
    """Give SQL that takes out what names or reaches a person: addresses, numbers, handles.

    >>> hidden("t").startswith("trim(regexp_replace(")
    True
    """
    made = f"coalesce({column}, '')"
    for pattern, word in _HIDE:
        made = f"regexp_replace({made}, '{pattern}', '{word}', 'g')"
    return f"trim({made})"


def write_threads(dump: Dump, personas: pl.DataFrame, out: Path, *, secret: str) -> dict[str, int]:
    """Write threads as JSON lines, one per action of a user with a persona; give counts by what became of the actions.

    `personas` has did and cluster. Ids are sha256(user, thread, secret): users link inside a thread and never across;
    texts lose addresses, numbers and handles.
    """
    db = dump.db
    db.register("given", personas.to_arrow())
    db.execute("CREATE OR REPLACE TABLE personas AS SELECT did, cluster FROM given")
    db.unregister("given")
    joins, messages = "", []
    for k in range(1, PATH + 1):
        on = "a.post" if k == 1 else f"p{k - 1}.parent"
        limit = "" if k == 1 else " AND a.action = 'reply'"
        joins += f" LEFT JOIN posts p{k} ON p{k}.uri = {on} AND p{k}.rank < a.rank{limit}"
        who = f"substr(sha256(concat_ws('|', p{k}.did, a.position, $secret)), 1, 16)"
        messages.append(
            f"CASE WHEN p{k}.uri IS NOT NULL THEN to_json({{'user_id': {who}, 'relative_integer_time': p{k}.rank, "
            f"'text': {hidden(f'p{k}.text')}}})::VARCHAR END"
        )
    who = "substr(sha256(concat_ws('|', a.did, a.position, $secret)), 1, 16)"
    act = (
        f'\'{{"user_id":"\' || {who} || \'","relative_integer_time":\' || a.rank || '
        "CASE WHEN a.action IN ('reply', 'quote', 'post_update') "
        f"THEN ',\"text\":' || to_json({hidden('a.text')})::VARCHAR "
        "ELSE '' END || ',\"actions\":{\"' || a.action || '\":true}}'"
    )
    above = f"array_to_string(list_filter([{', '.join(reversed(messages))}], lambda m: m IS NOT NULL), ',')"
    db.execute(
        "CREATE OR REPLACE TABLE made AS SELECT a.position, a.did, a.action, a.post, a.rank, c.cluster, "
        "CASE WHEN a.is_orphan THEN 'undo without its action' WHEN p1.uri IS NULL THEN 'post not in the dump' "
        "WHEN c.cluster IS NULL THEN 'user without persona' END AS reason, "
        f"'{{\"id\":\"' || substr(sha256(concat_ws('|', a.position, $secret)), 1, 16) || "
        f"'\",\"cluster_id\":' || c.cluster || ',\"thread\":[' || {above} || ',' || {act} || ']}}' AS line "
        f"FROM acted a LEFT JOIN personas c USING (did){joins}",
        {"secret": secret},
    )
    with out.open("w", encoding="utf-8") as file:
        for some in asked(db, "SELECT line FROM made WHERE reason IS NULL ORDER BY sha256(line)").iter_slices(100_000):
            file.write("\n".join(some["line"].to_list()) + "\n")
    counts = asked(db, "SELECT coalesce(reason, 'written') AS what, count(*) AS n FROM made GROUP BY 1 ORDER BY 1")
    return dict(counts.rows())
