"""Learning interests of a store: the item tower where it is needed, then codebook, names and idf."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from habitus.core.errors import ConfigError

if TYPE_CHECKING:
    from habitus.data.store import Store
    from habitus.tokens.interests import InterestConfig, Interests
    from habitus.tokens.item_content import ContentEncoder


def learn_interests(store: Store, config: InterestConfig, *, until: int, seed: int = 0) -> Interests:
    """Fit interests on the events up to and including day `until`, whatever the way; see `InterestConfig`.

    `cluster` trains the item tower first (`models.item_tower`), on pairs of train events alone; its loss goes to the
    figures of the answer. Nothing is written. Errors: those of `fit_interests`; `TrainingError` without pairs.

    >>> import polars, tempfile
    >>> from habitus.tasks.ingest import ingest
    >>> from habitus.tokens.interests import InterestConfig
    >>> schema = {"events": {"user": "u", "time": "t", "type": {"constant": "buy"}, "item": "i"}}
    >>> table = polars.DataFrame({"u": ["a", "a"], "t": ["2024-05-01", "2024-05-02"], "i": ["tea", "cup"]})
    >>> store = ingest(table, tempfile.mkdtemp() + "/tiny.store", schema=schema)
    >>> learn_interests(store, InterestConfig(way="item"), until=store.last_day).names
    ('(no content)', 'cup', 'tea')
    """
    from habitus.tokens.interests import fit_interests

    if config.way != "cluster":
        return fit_interests(store, config, until=until, seed=seed)
    vectors, encoder, losses = learn_vectors(store, config, until=until, seed=seed)
    found = fit_interests(store, config, until=until, seed=seed, vectors=vectors, content=encoder)
    tenth = max(1, len(losses) // 10)
    ends = {"tower_first_loss": float(np.mean(losses[:tenth])), "tower_last_loss": float(np.mean(losses[-tenth:]))}
    return dataclasses.replace(found, figures=found.figures | ends)


def learn_vectors(
    store: Store, config: InterestConfig, *, until: int, seed: int = 0, hidden: np.ndarray | None = None
) -> tuple[np.ndarray, ContentEncoder, list[float]]:
    """Train the item tower; give the vector of every item (float32 [n_items, d]), the content half, the losses.

    The events of `hidden` items (codes) are not looked at, which shows how new items fare.
    """
    import polars as pl

    from habitus.tokens.interest_fit import items_until, train_counts
    from habitus.tokens.item_content import content_of, fit_content
    from habitus.training.item_pairs import fit_tower, item_vectors, pair_source

    if store.items is None:
        raise ConfigError("a store with items", "none", where="way = 'cluster'", fix='use way = "field"')
    tower = config.tower
    n_train = train_counts(store, until)
    if hidden is not None:
        n_train[hidden] = 0
    table = items_until(store, until, n_train)
    kinds: dict[str, str] = {}
    if table is not None and store.schema.items is not None:
        kinds = {name: part.kind for name, part in store.schema.items.columns.items()}
    table = pl.DataFrame({"item": store.items}) if table is None else table
    spec = fit_content(table, kinds, np.flatnonzero(n_train), tower.title_buckets, tower.price_bins)
    content = content_of(spec, table)
    place = _places(store.items, (n_train >= max(tower.min_events, 1)) & tower.has_id)
    model, losses = fit_tower(pair_source(store, until, tower.thin, hidden), spec, content, place, tower, seed)
    return item_vectors(model, content, place), model.encoder(), losses


def _places(items: list[str], has_history: np.ndarray) -> np.ndarray:
    """Number the items with history from 1 in the order of their ids: later items and codes change nothing."""
    found = np.zeros(len(items), np.int64)
    rows = np.flatnonzero(has_history)
    found[rows[np.argsort(np.array(items, dtype=np.str_)[rows], kind="stable")]] = np.arange(1, len(rows) + 1)
    return found
