"""What models read of a row besides the lookup: numbers of the thread, counts of its text, and when things happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from habitus.apps.personas.rows import Rows

if TYPE_CHECKING:
    import polars as pl

STRUCTURE = ("n_context", "n_users", "is_same_author", "is_root_author", "n_actor_before")
TIMES = ("log_gap_post", "log_gap_root", "log_gap_mean", "log_gap_sd")
WORDING = ("characters", "words", "urls", "mentions", "hashtags", "emoji", "questions", "exclamations", "capitals",
           "digits")  # fmt: skip
_PATTERNS = {
    "words": r"\S+",
    "urls": r"https?://|<URL>",
    "mentions": r"@\w",
    "hashtags": r"#\w",
    "emoji": r"[\x{1F300}-\x{1FAFF}\x{2600}-\x{27BF}]",
    "questions": r"[?؟？]",
    "exclamations": r"[!！]",
    "capitals": r"\p{Lu}",
    "digits": r"\d",
}


def wording(texts: pl.Series) -> np.ndarray:
    """Give log1p of the counts of `WORDING` per text, float32 [n, 10]; of any script.

    >>> import polars as pl
    >>> wording(pl.Series(["Hi @you! 😀", ""])).shape
    (2, 10)
    """
    counts = [texts.str.len_chars()] + [texts.str.count_matches(pattern) for pattern in _PATTERNS.values()]
    return np.log1p(np.stack([each.to_numpy().astype(np.float32) for each in counts], axis=1))


def rows_of_threads(table: pl.DataFrame) -> Rows:
    """Give prepared threads as rows. Ranks become differences: no absolute rank is a feature."""
    post, first, act = (table[name].to_numpy() for name in ("rank_post", "rank_first", "rank_action"))
    log = [np.log1p(np.maximum(act - post, 0)), np.log1p(np.maximum(act - first, 0))]
    log += [np.log1p(np.maximum(table[name].to_numpy(), 0)) for name in ("gap_mean", "gap_sd")]
    structure = [table[name].to_numpy() for name in STRUCTURE]
    texts, text_of = distinct(table["post_text"])
    numbers = np.stack([np.asarray(each, np.float32) for each in (*structure, *log)], axis=1)
    key = table["post_key"].to_numpy()
    return Rows(
        content=table["content"].to_numpy(), cluster=table["cluster"].to_numpy(),
        label=table["label"].to_numpy().astype(np.int64), key=key, near=key, unit=key, numbers=numbers,
        text_of=text_of, texts=texts, replies=table["reply_text"], ids=table["thread_id"], names=(*STRUCTURE, *TIMES),
    )  # fmt: skip


def distinct(texts: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """Give the distinct texts, sorted, and the place of each row's text among them."""
    import polars as pl

    unique = texts.unique().sort()
    places = pl.DataFrame({"text": unique, "at": np.arange(len(unique))})
    at = pl.DataFrame({"text": texts}).join(places, on="text", how="left", maintain_order="left")["at"]
    return unique, at.to_numpy()
