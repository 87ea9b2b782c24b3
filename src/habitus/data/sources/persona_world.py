"""A social world whose best score is known: threads of 25 personas, each with the exact chance of every action.

A post has a topic, a popularity and a taste of its own for each action; a persona has a taste for topics, and for
actions by topic. The action is drawn from their softmax, the time until it from a normal in log10 whose mean is the
action's. So the posterior of the action given all that a thread shows is known in closed form, and with it the score
nobody can beat. Models see ranks instead of times and words instead of topics: for them it is an upper bound.

threads.jsonl     one thread per line, in the form of the challenge
truth.parquet     id, label and the exact posterior of each action
world.json        what was asked for
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import Field

from habitus.core.atomic import new_folder, write_json
from habitus.core.config import Config
from habitus.core.seeds import generator, mix
from habitus.data.sources.persona_words import Words, join_words

ACTIONS = ("like", "follow", "repost", "reply", "quote", "unfollow", "unlike", "post_delete", "block", "unrepost",
           "post_update", "unblock")  # fmt: skip
TEXTED = ("reply", "quote", "post_update")  # actions that carry a text
BASE = np.array([0.34, 0.36, 0.10, 0.08, 0.03, 0.025, 0.02, 0.015, 0.012, 0.008, 0.006, 0.004])
LOG_GAP = np.array(
    [-3.2, -2.3, -3.1, -2.9, -2.7, -1.3, -1.6, -2.0, -2.0, -1.5, -3.6, -1.2]
)  # mean, log10 of the period
SD_GAP = 0.5
OWN = np.array([a in ("post_update", "post_delete") for a in ACTIONS]) + 0.15 * (np.array(ACTIONS) == "reply")
# sizes of the 25 files of the published challenge, in MB
SIZES = (67.4, 14.4, 307, 72.3, 59.3, 109, 569, 393, 19.2, 198, 316, 106, 249, 104, 322, 53.1, 211, 460, 98.6, 239,
         66.8, 56.0, 48.8, 201, 245)  # fmt: skip
N_TOPICS, N_REPLIES, MOST_EXTRA, GEOMETRIC = 20, 30, 7, 0.4
FLAGS = ("like", "unlike", "repost", "unrepost", "follow", "unfollow", "block", "unblock", "post_update",
         "post_delete", "quote", "post", "reply")  # fmt: skip
_CHUNK = 100_000


class PersonaWorldConfig(Config):
    """How large the world is. `near_copies` is the share of posts that copy another one, a word apart.

    >>> PersonaWorldConfig(n_threads=800).n_posts
    100
    """

    n_threads: int = Field(default=200_000, ge=1)
    n_personas: int = Field(default=25, ge=1)
    seed: int = 0
    near_copies: float = Field(default=0.1, ge=0, lt=1)

    @property
    def n_posts(self) -> int:
        """One post for every eight threads."""
        return max(self.n_threads // 8, 2 * N_TOPICS)


@dataclass(frozen=True)
class Threads:
    """Some threads as numbers, one row each."""

    persona: np.ndarray
    post: np.ndarray
    label: np.ndarray
    log_gap: np.ndarray
    is_own: np.ndarray
    n_extra: np.ndarray
    posterior: np.ndarray  # float32 [n, 12]


class PersonaWorld:
    """Everything drawn from one seed; threads come in chunks, so that millions of them fit in memory.

    >>> world = PersonaWorld(PersonaWorldConfig(n_threads=400, n_personas=3))
    >>> world.draw(0, 400).posterior.shape
    (400, 12)
    """

    def __init__(self, config: PersonaWorldConfig) -> None:
        self.config = config
        rng, n, k = generator(config.seed, "persona world"), config.n_posts, config.n_personas
        self.topic = rng.integers(0, N_TOPICS, n)
        self.gamma = rng.normal(0, 1.2, (n, len(ACTIONS))).astype(np.float32)
        self.time = rng.random(n)
        self.source = np.arange(n)  # the post whose text, topic and taste a near copy has
        copies = np.flatnonzero(rng.random(n) < config.near_copies)
        originals = np.setdiff1d(np.arange(n), copies)
        self.source[copies] = originals[rng.integers(0, originals.size, copies.size)]
        self.topic, self.gamma = self.topic[self.source], self.gamma[self.source]
        self.popularity = (1.0 + rng.permutation(n)) ** -1.05
        sizes = np.resize(np.array(SIZES), k)
        self.persona_share = sizes / sizes.sum()
        self.taste = rng.dirichlet(np.full(N_TOPICS, 0.3), k)
        self.logit = np.log(BASE) + rng.normal(0, 0.7, (k, 1, 12)) + rng.normal(0, 0.7, (k, N_TOPICS, 12))
        self.words = Words(rng, N_TOPICS)

    @cached_property
    def _by_topic(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = np.argsort(self.topic, kind="stable")
        mass = np.concatenate([[0.0], np.cumsum(self.popularity[order])])
        edges = np.searchsorted(self.topic[order], np.arange(N_TOPICS + 1))
        return order, mass, mass[edges]

    def draw(self, start: int, stop: int) -> Threads:
        """Give threads start .. stop - 1. Chunks of 100,000 are drawn from seeds of their own."""
        parts = [self._chunk(c) for c in range(start // _CHUNK, -(-stop // _CHUNK))]
        first = start // _CHUNK * _CHUNK
        cut = slice(start - first, stop - first)
        return Threads(*(np.concatenate([getattr(p, f) for p in parts])[cut] for f in Threads.__dataclass_fields__))

    def _chunk(self, number: int) -> Threads:
        n = min(_CHUNK, self.config.n_threads - number * _CHUNK)
        rng = generator(self.config.seed, "threads", number)
        persona = np.searchsorted(np.cumsum(self.persona_share), rng.random(n) * (1 - 1e-12))
        topic = (rng.random(n)[:, None] > np.cumsum(self.taste[persona], axis=1)[:, :-1]).sum(axis=1)
        order, mass, edges = self._by_topic
        low, high = edges[topic], edges[topic + 1]
        empty = high <= low  # a small world may lack posts of a topic: any post will do
        low, high = np.where(empty, 0.0, low), np.where(empty, mass[-1], high)
        at = np.searchsorted(mass, low + rng.random(n) * (high - low), side="right") - 1
        post = order[np.clip(at, 0, order.size - 1)]
        logit = self.logit[persona, self.topic[post]] + self.gamma[post]
        label = np.argmax(logit + rng.gumbel(size=logit.shape), axis=1).astype(np.int8)
        log_gap = rng.normal(LOG_GAP[label], SD_GAP)
        is_own = rng.random(n) < OWN[label]
        extra = np.minimum(MOST_EXTRA, rng.geometric(GEOMETRIC, n) - 1)
        n_extra = np.where(label == ACTIONS.index("reply"), extra, 0)
        posterior = exact_posterior(logit, log_gap, is_own, n_extra)
        return Threads(persona, post, label, log_gap, is_own, n_extra, posterior)

    def post_texts(self) -> list[str]:
        """Give the text of every post; a near copy has one word swapped or `<URL>` added."""
        rng, n = generator(self.config.seed, "post texts"), self.config.n_posts
        ids, size = self.words.draw(rng, self.topic, 8 + rng.poisson(12, n))
        texts = join_words(self.words.names, ids, size)
        copies = np.flatnonzero(self.source != np.arange(n))
        other = self.words.names[rng.integers(0, len(self.words.names), copies.size)]
        for post, word, is_swap in zip(copies.tolist(), other.tolist(), (rng.random(copies.size) < 0.5).tolist()):
            own = texts[int(self.source[post])].split(" ")
            if is_swap:
                own[int(mix(np.array([post]))[0] % len(own))] = word
            texts[post] = " ".join(own if is_swap else [*own, "<URL>"])
        return texts

    def bank(self) -> list[str]:
        """Give the replies: 30 for each persona and topic, in that order."""
        rng, n = generator(self.config.seed, "bank"), self.config.n_personas * N_TOPICS * N_REPLIES
        topic = np.arange(n) // N_REPLIES % N_TOPICS
        return join_words(self.words.names, *self.words.draw(rng, topic, 4 + rng.poisson(5, n)))


def exact_posterior(logit: np.ndarray, log_gap: np.ndarray, is_own: np.ndarray, n_extra: np.ndarray) -> np.ndarray:
    """Give p(action | persona, post, gap, own author, extra context), float32 [n, 12]."""
    gap = -0.5 * ((log_gap[:, None] - LOG_GAP) / SD_GAP) ** 2
    own = np.where(is_own[:, None], OWN, 1 - OWN)
    number = np.arange(MOST_EXTRA + 1)
    chance = GEOMETRIC * (1 - GEOMETRIC) ** number
    chance[-1] = (1 - GEOMETRIC) ** MOST_EXTRA
    extra = np.where(np.array(ACTIONS) == "reply", chance[n_extra][:, None], (n_extra == 0)[:, None])
    with np.errstate(divide="ignore"):
        score = logit + gap + np.log(own) + np.log(extra)
    p = np.exp(score - score.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


def write_persona_world(out: str | Path, config: PersonaWorldConfig | None = None, *, has_truth: bool = True) -> Path:
    """Write threads.jsonl, truth.parquet and world.json into a new folder, in chunks.

    Errors: `DiskError` when the folder exists or the disk is full.

    >>> import tempfile
    >>> made = write_persona_world(Path(tempfile.mkdtemp()) / "w", PersonaWorldConfig(n_threads=50, n_personas=2))
    >>> len((made / "threads.jsonl").read_text().splitlines())
    50
    """
    from habitus.data.sources.persona_lines import LineWriter

    config = config or PersonaWorldConfig()
    with new_folder(out) as folder:
        world = PersonaWorld(config)
        writer = LineWriter(world)
        truth = _TruthFile(folder / "truth.parquet") if has_truth else None
        with (folder / "threads.jsonl").open("wb") as file:
            for start in range(0, config.n_threads, _CHUNK):
                stop = min(start + _CHUNK, config.n_threads)
                some = world.draw(start, stop)
                file.write(writer.lines(start, some))
                if truth is not None:
                    truth.add(start, some)
        if truth is not None:
            truth.close()
        write_json(folder / "world.json", config.model_dump(mode="json") | {"n_posts": config.n_posts})
    return Path(out)


class _TruthFile:
    """truth.parquet, one row group per chunk."""

    def __init__(self, path: Path) -> None:
        self.path, self.writer = path, None

    def add(self, start: int, some: Threads) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        n = len(some.label)
        ids = [f"t{number}" for number in range(start, start + n)]
        columns = {"id": pa.array(ids), "label": pa.array(some.label)}
        columns |= {f"p_{name}": pa.array(some.posterior[:, i]) for i, name in enumerate(ACTIONS)}
        table = pa.table(columns)
        self.writer = self.writer or pq.ParquetWriter(self.path, table.schema, compression="zstd")
        self.writer.write_table(table)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
