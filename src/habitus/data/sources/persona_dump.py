"""The social world as a raw stream of commits, with the exact set of threads to expect of it.

Every post has an author of its own who then stays silent; every user first writes six texts in the dialect of its
persona, long before the first post; every undo gets the create it undoes, just before it.

commits.jsonl      the stream, in order of time
expected.parquet   did, action, post (uri) of every thread that must come out
personas.parquet   did and persona of every user
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from habitus.core.atomic import new_folder
from habitus.core.seeds import generator
from habitus.data.sources.persona_words import Words, join_words
from habitus.data.sources.persona_world import ACTIONS, PersonaWorld, PersonaWorldConfig

N_TEXTS, USERS_PER_PERSONA = 6, 30
_SECOND = 1_000_000
_KIND = {"like": "feed.like", "repost": "feed.repost", "follow": "graph.follow", "block": "graph.block"}


def write_persona_dump(out: str | Path, config: PersonaWorldConfig) -> Path:
    """Write the stream; small worlds only (every commit is made one by one).

    >>> import tempfile
    >>> made = write_persona_dump(Path(tempfile.mkdtemp()) / "d", PersonaWorldConfig(n_threads=40, n_personas=2))
    >>> sorted(path.name for path in made.iterdir())
    ['commits.jsonl', 'expected.parquet', 'personas.parquet']
    """
    import polars as pl

    world = PersonaWorld(config)
    some, texts = world.draw(0, config.n_threads), world.post_texts()
    rng = generator(config.seed, "dump")
    author_persona = np.searchsorted(np.cumsum(world.persona_share), rng.random(config.n_posts) * (1 - 1e-12))
    first_own: dict[int, int] = {}  # the author of a post that somebody updates or deletes is of that persona
    for post, persona, is_own in zip(some.post.tolist(), some.persona.tolist(), some.is_own.tolist()):
        if is_own:
            first_own.setdefault(post, persona)
    author_persona[list(first_own)] = list(first_own.values())
    users = {f"did:plc:a{post}": int(author_persona[post]) for post in range(config.n_posts)}
    for persona in range(config.n_personas):
        users |= {f"did:plc:u{persona}x{i}": persona for i in range(USERS_PER_PERSONA)}
    commits = _earlier(world, users)
    for post in range(config.n_posts):
        record = {"text": texts[post], "langs": ["en"]}
        commits.append(_commit(f"did:plc:a{post}", 1 + world.time[post], "create", "feed.post", f"p{post}", record))
    expected: list[tuple[str, str, str]] = []
    is_own = some.is_own & (some.label != ACTIONS.index("reply"))  # an own reply would be its author's latest text
    at = 1 + world.time[some.post] + 10.0**some.log_gap
    for i in range(config.n_threads):
        post, action = int(some.post[i]), ACTIONS[some.label[i]]
        actor = f"did:plc:a{post}" if is_own[i] else f"did:plc:u{some.persona[i]}x{rng.integers(USERS_PER_PERSONA)}"
        made = _act(actor, action, post, float(at[i]), i)
        commits += made
        uri = f"at://did:plc:a{post}/app.bsky.feed.post/p{post}"
        expected += [(actor, action, uri)] + ([(actor, action[2:], uri)] if len(made) > 1 else [])
    commits.sort(key=lambda c: c["time_us"])
    with new_folder(out) as folder:
        (folder / "commits.jsonl").write_text("".join(json.dumps(c) + "\n" for c in commits), "utf-8")
        pl.DataFrame(expected, schema=["did", "action", "post"], orient="row").write_parquet(
            folder / "expected.parquet"
        )
        table = pl.DataFrame({"did": list(users), "persona": list(users.values())})
        table.write_parquet(folder / "personas.parquet")
    return Path(out)


def _earlier(world: PersonaWorld, users: dict[str, int]) -> list[dict[str, Any]]:
    rng = generator(world.config.seed, "dialects")
    dialects = Words(rng, world.config.n_personas)
    persona = np.repeat(np.array(list(users.values())), N_TEXTS)
    texts = join_words(dialects.names, *dialects.draw(rng, persona, 12 + rng.poisson(8, persona.size)))
    names = [name for name in users for _ in range(N_TEXTS)]
    return [
        _commit(name, float(time), "create", "feed.post", f"e{i}", {"text": text, "langs": ["en"]})
        for i, (name, text, time) in enumerate(zip(names, texts, rng.random(len(texts)) * 0.5))
    ]


def _commit(did: str, time: float, operation: str, collection: str, key: str, record: Any = None) -> dict[str, Any]:
    commit = {"operation": operation, "collection": f"app.bsky.{collection}", "rkey": key}
    if record is not None:
        commit |= {"cid": f"c{key}", "record": record}
    return {"did": did, "time_us": int(time * 1e6 * _SECOND), "kind": "commit", "commit": commit}


def _act(actor: str, action: str, post: int, at: float, i: int) -> list[dict[str, Any]]:
    author = f"did:plc:a{post}"
    uri, key = f"at://{author}/app.bsky.feed.post/p{post}", f"k{i}"
    if action == "reply":
        record = {"text": f"so {i}", "langs": ["en"], "reply": {"parent": {"uri": uri}}}
        return [_commit(actor, at, "create", "feed.post", key, record)]
    if action == "quote":
        inner = {"uri": uri} if i % 2 else {"record": {"uri": uri}}
        record = {"text": f"look {i}", "langs": ["en"], "embed": {"record": inner}}
        return [_commit(actor, at, "create", "feed.post", key, record)]
    if action == "post_update":
        return [_commit(author, at, "update", "feed.post", f"p{post}", {"text": f"mended {i}", "langs": ["en"]})]
    if action == "post_delete":
        return [_commit(author, at, "delete", "feed.post", f"p{post}")]
    name = action.removeprefix("un")
    subject: Any = author if name in ("follow", "block") else {"uri": uri}
    made = [_commit(actor, at - 1e-9 if name != action else at, "create", _KIND[name], key, {"subject": subject})]
    return [*made, _commit(actor, at, "delete", _KIND[name], key)] if name != action else made
