"""Questions of a recommender that reads titles: histories and answers, cut from a log so that nothing leaks.

Source of the protocol: LLaRA (arXiv 2312.02445) and iLoRA (arXiv 2408.10159): up to 10 titles, 20 candidates; here for
the last item of every user. Letters: n rows, H titles of a history.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from habitus.core.atomic import new_file
from habitus.core.errors import ArtifactError, SchemaError
from habitus.core.seeds import mix, text_keys

if TYPE_CHECKING:
    import polars as pl

    from habitus.data.store import Store

Part = Literal["train", "valid", "test"]
HISTORY = 10
BEFORE = 3  # items before a train target at least
SHORTEST = {"test": 2, "valid": 5}  # items a user must have had for a row of the part
_ARTICLE = re.compile(r"^(.*), (The|A|An|Les|La|Le|L'|Il|El|Das|Der|Die|Los|Las)$")
_YEAR = re.compile(r"^(.*\S)\s+\((\d{4}|V)\)$")


@dataclass(frozen=True)
class Sequences:
    """The items of every user in order, as numbers that say nothing about time or popularity.

    `titles`, `items`: text and id of item number i. `item` int32 holds all users' items one after the other, those of
    user u at offsets[u]:offsets[u + 1]. Users that are not `is_seen` are asked about and never trained on.
    """

    titles: tuple[str, ...]
    items: tuple[str, ...]
    users: tuple[str, ...]
    offsets: np.ndarray
    item: np.ndarray
    is_seen: np.ndarray

    @property
    def n_items(self) -> int:
        return len(self.titles)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over titles, users and every item: what candidates and adapters are tied to."""
        digest = hashlib.sha256("\x1f".join((*self.titles, *self.users)).encode())
        for values in (self.offsets.astype(np.int64), self.item.astype(np.int32), self.is_seen.astype(np.uint8)):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    @cached_property
    def user_keys(self) -> np.ndarray:
        """A 64-bit key per user, for draws that no order of users can change."""
        return text_keys(self.users)

    @cached_property
    def owner(self) -> np.ndarray:
        """The user of each item of `item`, int64."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.offsets))

    @cached_property
    def in_train(self) -> np.ndarray:
        """Which items are training material, bool: not the last two of a user, none of unseen users."""
        place = np.arange(len(self.item)) - self.offsets[:-1][self.owner]
        size = np.diff(self.offsets)[self.owner]
        return self.is_seen[self.owner] & (place < size - np.where(size >= BEFORE, 2, 0))

    @cached_property
    def popularity(self) -> np.ndarray:
        """How often each item occurs in training, int64."""
        return np.bincount(self.item[self.in_train], minlength=self.n_items)

    def rows(self, part: Part) -> Rows:
        """Cut the questions of a part.

        `test`: the last item of every user. `valid`: the one before it, of seen users with at least 5. `train`: every
        earlier item of seen users that has at least 3 before it.
        """
        low, high = self.offsets[:-1], self.offsets[1:]
        size = high - low
        if part == "train":
            place = np.arange(len(self.item)) - low[self.owner]
            at = np.flatnonzero(self.in_train & (place >= BEFORE))
        else:
            is_asked = (size >= SHORTEST[part]) & (self.is_seen | (part == "test"))
            at = high[is_asked] - (1 if part == "test" else 2)
        return Rows(self, part, at)

    def save(self, path: str | Path) -> None:
        """Write one .npz file; no pickle."""
        texts = {name: np.array(getattr(self, name), dtype=np.str_) for name in ("titles", "items", "users")}
        with new_file(path) as beside, beside.open("wb") as handle:
            numbers = {name: getattr(self, name) for name in ("offsets", "item", "is_seen")}
            np.savez_compressed(handle, **numbers, **texts)  # pyright: ignore

    @classmethod
    def load(cls, path: str | Path) -> Sequences:
        """Read what `save` wrote. Errors: `ArtifactError`."""
        try:
            with np.load(path, allow_pickle=False) as found:
                texts = {name: tuple(found[name].tolist()) for name in ("titles", "items", "users")}
                return cls(**texts, **{name: found[name] for name in ("offsets", "item", "is_seen")})
        except (OSError, ValueError, KeyError) as cause:
            fix = "make it with `habitus ilora prepare`"
            raise ArtifactError("a file of sequences (.npz)", str(cause), where=str(path), fix=fix) from None


@dataclass(frozen=True)
class Rows:
    """n questions: `at` int64 is the place of each answer in `sequences.item`; all before it is the past."""

    sequences: Sequences
    part: Part
    at: np.ndarray

    def __len__(self) -> int:
        return len(self.at)

    def take(self, some: np.ndarray) -> Rows:
        """Give the rows at these numbers, or under this mask."""
        return Rows(self.sequences, self.part, self.at[some])

    @property
    def user(self) -> np.ndarray:
        """User numbers, int64 [n]."""
        return self.sequences.owner[self.at]

    @property
    def keys(self) -> np.ndarray:
        """A 64-bit key per row's user."""
        return self.sequences.user_keys[self.user]

    @property
    def target(self) -> np.ndarray:
        """Item numbers of the answers, int32 [n]."""
        return self.sequences.item[self.at]

    def history(self, length: int = HISTORY) -> np.ndarray:
        """Give the newest items before each answer, int32 [n, length], oldest first, -1 in front of short ones."""
        place = self.at[:, None] + np.arange(-length, 0)
        is_there = place >= self.sequences.offsets[self.user][:, None]
        return np.where(is_there, self.sequences.item[np.maximum(place, 0)], -1).astype(np.int32)


def read_sequences(store: Store, *, unseen: str | None = None, tie_seed: int = 0) -> Sequences:
    """Read a store of events about items with titles.

    Ids of equal title and year are one item, and a user has it once, at the first time. A trailing article moves to
    the front; a year is part of a title only where two items would share it. Events of one instant stand in the order
    of a hash of user and item (`tie_seed`); item numbers are drawn by a hash too, as ids may leak the order of events.

    Parameters
    ----------
    unseen
        A column of the profile; its value `yes` marks users that are never trained on.

    Errors: `SchemaError` without items, a column `title`, or the column `unseen`.
    """
    import polars as pl

    texts, table = store.items, store.item_table
    if texts is None or table is None or "title" not in table.columns:
        found = "no table of items" if table is None else f"columns: {', '.join(table.columns)}"
        raise SchemaError("a table of items with a column title", found, where=str(store.path))
    named = _named(table)
    events = _events(store).with_columns(item=pl.Series(texts, dtype=pl.String).gather(pl.Series(_codes(store))))
    events = events.join(named, on="item", how="left").with_columns(pl.col("title").fill_null(pl.col("item")))
    tie = mix(text_keys((events["user"] + "\x1f" + events["title"]).to_list()) ^ np.uint64(tie_seed))
    events = events.with_columns(tie=pl.Series(tie)).sort("user", "time", "tie")
    events = events.unique(["user", "title"], keep="first", maintain_order=True)
    titles = events.select("title", "item").unique("title", keep="first", maintain_order=True)
    titles = titles.with_columns(key=pl.Series(text_keys(titles["title"].to_list()))).sort("key")
    titles = titles.with_row_index("number")
    events = events.join(titles.select("title", "number"), on="title", how="left", maintain_order="left")
    users = events.group_by("user", maintain_order=True).len()
    return Sequences(
        tuple(titles["title"]),
        tuple(titles["item"]),
        tuple(users["user"]),
        np.r_[0, users["len"].cum_sum().to_numpy()].astype(np.int64),
        events["number"].to_numpy().astype(np.int32),
        _is_seen(store, users["user"], unseen),
    )


def clean_title(title: str) -> tuple[str, str]:
    """Give the title as it is read, trailing article first, and its year if it ends with one.

    >>> clean_title("Usual Suspects, The (1995)")
    ('The Usual Suspects', '1995')
    """
    title, year = title.strip(), ""
    if found := _YEAR.match(title):
        title, year = found[1], found[2]
    if found := _ARTICLE.match(title):
        title = f"{found[2]}{'' if found[2].endswith(chr(39)) else ' '}{found[1]}"
    return " ".join(title.split()), year


def _named(table: pl.DataFrame) -> pl.DataFrame:
    """Item id and title, the year in it where two items of different years would share it."""
    import polars as pl

    cleaned = [clean_title(title or "") for title in table["title"].to_list()]
    years = [f"{y:.0f}" if y else "" for y in table["year"].to_list()] if "year" in table.columns else [""] * len(table)
    named = pl.DataFrame(
        {
            "item": table["item"].cast(pl.String),
            "title": [title for title, _ in cleaned],
            "year": [own or other for (_, own), other in zip(cleaned, years)],
        }
    )
    is_shared = pl.col("year").n_unique().over("title") > 1
    with_year = pl.format("{} ({})", "title", "year")
    named = named.with_columns(title=pl.when(is_shared & (pl.col("year") != "")).then(with_year).otherwise("title"))
    return named.select("item", title=pl.when(pl.col("title") == "").then("item").otherwise("title"))


def _codes(store: Store) -> np.ndarray:
    return np.concatenate([_items(store, i) for i in range(store.n_shards)])


def _items(store: Store, i: int) -> np.ndarray:
    item = store.shard(i).item
    if item is None or (np.asarray(item) < 0).any():
        raise SchemaError("an item on every event", "events without one", where=str(store.path))
    return np.asarray(item)


def _events(store: Store) -> pl.DataFrame:
    import polars as pl

    user, time = [], []
    for i in range(store.n_shards):
        shard = store.shard(i)
        user.append(shard.first_user + np.repeat(np.arange(shard.n_users), np.diff(shard.offsets)))
        time.append(np.asarray(shard.time))
    names = store.users["user"].cast(pl.String)
    return pl.DataFrame({"user": names.gather(pl.Series(np.concatenate(user))), "time": np.concatenate(time)})


def _is_seen(store: Store, users: pl.Series, unseen: str | None) -> np.ndarray:
    import polars as pl

    if unseen is None:
        return np.ones(len(users), dtype=bool)
    profiles = store.profiles
    if profiles is None or unseen not in profiles.columns:
        found = "no profile" if profiles is None else f"columns: {', '.join(profiles.columns)}"
        raise SchemaError(f"a column {unseen!r} of the profile", found, where=str(store.path))
    marked = profiles.filter(pl.col(unseen).cast(pl.String) == "yes")
    return ~users.is_in(marked["user"].cast(pl.String).to_list()).to_numpy()
