"""From the coded columns of any store to interests: by item text, field value, or content under frozen weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from habitus.data.store import Store
    from habitus.tokens.interests import Interests

JOIN = "\x1f"  # between the texts of a tuple of columns


@dataclass(frozen=True, eq=False)
class Lookup:
    """One mixed index over coded columns, then a table: the same answer for items and for fields of events.

    Attributes
    ----------
    columns
        Names of the columns.
    tables
        int32 [n_codes + 1] per column: code -> place; the last entry is for -1 (missing).
    sizes
        How many places each column has.
    flat
        int32 [product of sizes]: the interest of each combination.
    """

    columns: tuple[str, ...]
    tables: tuple[np.ndarray, ...]
    sizes: tuple[int, ...]
    flat: np.ndarray

    def __call__(self, column: Mapping[str, np.ndarray]) -> np.ndarray:
        """Give the interest (int32) of each row."""
        index = np.zeros(len(column["day"]), np.int64)
        for name, table, size in zip(self.columns, self.tables, self.sizes, strict=True):
            index = index * size + table[column[name]]
        return self.flat[index]


def lookup(interests: Interests, store: Store) -> Lookup:
    """Give the lookup of a store's codes. Errors: `ConfigError` when the store lacks a column."""
    if is_of_events(store, interests.fields):
        return field_lookup(interests, {name: store.vocabulary(name) for name in interests.fields})
    return item_lookup(items_on(interests, store.items or [], store.item_table))


def item_lookup(of_item: np.ndarray) -> Lookup:
    """Map item codes by a table (int32 [n_items]); a missing item is interest 0."""
    n = len(of_item)
    return Lookup(("item",), (np.arange(n + 1, dtype=np.int32),), (n + 1,), np.append(of_item, 0).astype(np.int32))


def field_lookup(interests: Interests, vocabularies: Mapping[str, Sequence[str]]) -> Lookup:
    """Map codes of event columns; a value that no interest has leads to 0."""
    split = [value.split(JOIN) for value in interests.values]
    tables, sizes = [], []
    index = np.zeros(len(split), np.int64)
    for i, name in enumerate(interests.fields):
        place = {text: k for k, text in enumerate(sorted({parts[i] for parts in split} | {""}))}
        unknown = len(place)
        codes = [place.get(text, unknown) for text in vocabularies[name]]
        tables.append(np.array([*codes, place[""]], np.int32))
        sizes.append(unknown + 1)
        index = index * sizes[-1] + np.array([place[parts[i]] for parts in split], np.int64)
    flat = np.zeros(int(np.prod(sizes, dtype=np.int64)), np.int32)
    flat[index] = np.arange(1, len(split) + 1)
    return Lookup(interests.fields, tuple(tables), tuple(sizes), flat)


def is_of_events(store: Store, fields: Sequence[str]) -> bool:
    """Say whether the fields are columns of events (`type`, categories) and not of the item table."""
    return bool(fields) and all(name == "type" or name in store.categories for name in fields)


def items_on(interests: Interests, items: Sequence[str], table: Any) -> np.ndarray:
    """Give the interest (int32) of each item of a vocabulary; `table` is the item table in the same order, or None.

    An item that has an interest keeps it. Any other is looked up by its field value or its content, and is 0 when
    neither is known.
    """
    known = dict(zip(interests.item_ids, interests.of_item.tolist(), strict=True))
    found = np.fromiter((known.get(item, 0) for item in items), np.int32, len(items))
    rest = np.flatnonzero(found == 0)
    if not len(rest) or table is None or interests.way == "item":
        return found
    if interests.way == "field":
        place = {value: i + 1 for i, value in enumerate(interests.values)}
        texts = field_texts(table[rest], interests.fields)
        found[rest] = [place.get(text, 0) for text in texts]
    elif interests.content is not None and interests.codebook is not None:
        vectors, has_content = interests.content.encode(table[rest])
        found[rest] = np.where(has_content, interests.codebook.assign(vectors) + 1, 0)
    return found


def field_texts(table: Any, fields: Sequence[str]) -> list[str]:
    """Join the texts of some columns per row; all missing gives an empty text. Errors: `ConfigError`."""
    import polars as pl

    unknown = [name for name in fields if name not in table.columns]
    if unknown:
        meant = nearest(unknown[0], table.columns)
        fix = f"did you mean {meant!r}?" if meant else ""
        raise ConfigError(f"a column out of: {', '.join(table.columns)}", repr(unknown[0]), where="fields", fix=fix)
    parts = [pl.col(name).cast(pl.String).fill_null("") for name in fields]
    joined = table.select(pl.concat_str(parts, separator=JOIN).alias("text"))["text"].to_list()
    blank = JOIN * (len(fields) - 1)
    return ["" if text == blank else text for text in joined]
