"""Threads of a social world as lines of JSON, in the form of the challenge."""

from __future__ import annotations

import json

import numpy as np

from habitus.core.seeds import generator, mix, uniforms
from habitus.data.sources.persona_words import join_words
from habitus.data.sources.persona_world import (
    ACTIONS,
    FLAGS,
    N_REPLIES,
    N_TOPICS,
    TEXTED,
    PersonaWorld,
    Threads,
)

REDRAWN = 0.2  # share of the words of a reply that are drawn anew
_CHUNK = 100_000


class LineWriter:
    """Knows the rank of every message; writes any chunk of threads. Ids are hashed with the thread."""

    def __init__(self, world: PersonaWorld) -> None:
        import polars as pl

        self.world, n = world, world.config.n_threads
        self.texts = pl.Series(world.post_texts(), dtype=pl.String)
        self.bank = np.array(world.bank(), dtype=object)
        acts, extras = np.empty(n), []
        for start in range(0, n, _CHUNK):
            some = world.draw(start, min(start + _CHUNK, n))
            acts[start : start + len(some.label)] = world.time[some.post] + 10.0**some.log_gap
            extras.append(self._extra_times(start, some))
        times = np.concatenate([world.time, acts, *extras])
        rank = np.empty(times.size, np.int64)
        rank[np.argsort(times, kind="stable")] = np.arange(times.size)
        n_posts = world.config.n_posts
        self.post_rank, self.act_rank, self.extra_rank = np.split(rank, [n_posts, n_posts + n])
        self.extra_start = np.concatenate([[0], np.cumsum([each.size for each in extras])])

    def _extra_times(self, start: int, some: Threads) -> np.ndarray:
        """Messages above the post: each before the one below it, so times come oldest first."""
        row = np.repeat(np.arange(len(some.label)), some.n_extra)
        place = np.arange(row.size) - np.repeat(np.cumsum(some.n_extra) - some.n_extra, some.n_extra)
        above = some.n_extra[row] - place  # 1 is the parent of the post
        return self.world.time[some.post[row]] - 1e-4 * (above - 0.5 * uniforms(self.world.config.seed, row + start))

    def lines(self, start: int, some: Threads) -> bytes:
        """Give the lines of threads start .. as UTF-8, each with its newline."""
        import polars as pl

        n, seed = len(some.label), self.world.config.seed
        number = np.arange(start, start + n)
        author, actor = mix(number * 16 + seed), mix(number * 16 + 1 + seed)
        actor = np.where(some.is_own, author, actor)
        table = pl.DataFrame(
            {
                "number": number,
                "cluster": some.persona,
                "author": author,
                "actor": actor,
                "post_rank": self.post_rank[some.post],
                "act_rank": self.act_rank[start : start + n],
                "text": self.texts.gather(some.post),
                "above": self._above(start, some),
                "own": self._own_texts(start, some),
                "flags": pl.Series([_flags(name) for name in ACTIONS]).gather(some.label),
            }
        )
        line = pl.concat_str(
            pl.lit('{"id":"t'), "number", pl.lit('","cluster_id":'), "cluster", pl.lit(',"thread":['), "above",
            pl.lit('{"user_id":"u'), "author", pl.lit('","relative_integer_time":'), "post_rank",
            pl.lit(',"text":"'), "text", pl.lit('"},{"user_id":"u'), "actor", pl.lit('","relative_integer_time":'),
            "act_rank", pl.lit(","), "own", pl.lit('"actions":'), "flags", pl.lit("}]}"),
        )  # fmt: skip
        return ("\n".join(table.select(line=line)["line"].to_list()) + "\n").encode()

    def _own_texts(self, start: int, some: Threads):
        """The text field of the last message: a reply from the bank with some words redrawn, or nothing."""
        import polars as pl

        rng = generator(self.world.config.seed, "own texts", start)
        codes = [ACTIONS.index(name) for name in TEXTED]
        rows = np.flatnonzero(np.isin(some.label, codes))
        cell = some.persona[rows] * N_TOPICS + self.world.topic[some.post[rows]]
        chosen = self.bank[cell * N_REPLIES + rng.integers(0, N_REPLIES, rows.size)]
        words = pl.Series(chosen.tolist(), dtype=pl.String).str.split(" ")
        flat = words.explode().to_numpy().astype(object) if rows.size else np.zeros(0, object)
        anew = rng.random(flat.size) < REDRAWN
        flat[anew] = self.world.words.names[rng.integers(0, len(self.world.words.names), int(anew.sum()))]
        texts = join_words(flat, np.arange(flat.size), words.list.len().to_numpy().astype(np.int64))
        found = np.full(len(some.label), "", dtype=object)
        found[rows] = [f'"text":"{text}",' for text in texts]
        return pl.Series(found.tolist(), dtype=pl.String)

    def _above(self, start: int, some: Threads):
        """The messages above the post, as JSON with a comma after each."""
        import polars as pl

        rng = generator(self.world.config.seed, "above", start)
        row = np.repeat(np.arange(len(some.label)), some.n_extra)
        at = self.extra_start[start // _CHUNK]
        rank = self.extra_rank[at : at + row.size]
        words = self.world.words
        texts = join_words(
            words.names, *words.draw(rng, self.world.topic[some.post[row]], 3 + rng.poisson(5, row.size))
        )
        user = mix((start + row) * 16 + 2 + np.arange(row.size) % 3)
        table = pl.DataFrame({"row": row, "user": user, "rank": rank, "text": pl.Series(texts, dtype=pl.String)})
        message = pl.concat_str(
            pl.lit('{"user_id":"u'), "user", pl.lit('","relative_integer_time":'), "rank", pl.lit(',"text":"'), "text",
            pl.lit('"},'),
        )  # fmt: skip
        joined = (
            table.with_columns(message=message).group_by("row", maintain_order=True).agg(pl.col("message").str.join(""))
        )
        found = np.full(len(some.label), "", dtype=object)
        found[joined["row"].to_numpy()] = joined["message"].to_list()
        return pl.Series(found.tolist(), dtype=pl.String)


def _flags(action: str) -> str:
    return json.dumps({name: name == action for name in FLAGS}, separators=(",", ":"))
