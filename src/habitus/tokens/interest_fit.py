"""Fitting interests on train: which items or values there are, their clusters, names and idf."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.core.errors import ConfigError, nearest
from habitus.data.calendar import to_date
from habitus.data.pipeline.zones import first_instant
from habitus.tokens.codebook import Codebook, capped, fit_codebook
from habitus.tokens.counts import Counter
from habitus.tokens.interest_lookup import JOIN, Lookup, field_lookup, field_texts, is_of_events, item_lookup
from habitus.tokens.item_content import ContentEncoder

if TYPE_CHECKING:
    from habitus.data.store import Store
    from habitus.tokens.interests import InterestConfig, Interests

LEAST, MOST = 256, 100_000  # clusters, by default
NOTHING = "(no content)"


def fit(
    store: Store,
    config: InterestConfig,
    until: int,
    seed: int,
    vectors: np.ndarray | None,
    content: ContentEncoder | None,
) -> Interests:
    """See `interests.fit_interests`."""
    from habitus.tokens.interests import Interests

    _check(store, config)
    parts: dict[str, Any] = {"values": (), "codebook": None, "content": None}
    train = train_counts(store, until)
    n_items = len(store.items or [])
    if config.way == "field" and is_of_events(store, config.fields):
        parts["values"], of_item = _event_values(store, config.fields, until), np.zeros(n_items, np.int32)
        names = [value.replace(JOIN, " / ") for value in parts["values"]]
    elif config.way == "field":
        parts["values"], of_item = _item_values(store, config.fields, train, until)
        names = [value.replace(JOIN, " / ") for value in parts["values"]]
    elif config.way == "item":
        of_item, names = _each_item(store, train)
    else:
        if vectors is None:
            raise ConfigError("item vectors of the tower", "none", where="way = 'cluster'", fix="use learn_interests")
        parts["codebook"], of_item = _clusters(store, config, train, vectors, seed)
        parts["content"] = content
        names = cluster_names(store, of_item, train, len(parts["codebook"].centres))
    draft = Interests(
        version="", n=len(names) + 1, of_item=of_item, item_ids=tuple(store.items or ()), names=(NOTHING, *names),
        idf=np.zeros(len(names) + 1, np.float32), block=config.block, groups=config.groups, way=config.way,
        fields=config.fields, amount=config.amount, digits=config.digits, until=until,
        week_starts=(until + 1) % 7, n_users=0, **parts,
    )  # fmt: skip
    idf, n_users, figures = _idf(store, draft, until)
    return sealed(draft, idf=idf, n_users=n_users, figures=figures)


def sealed(draft: Interests, **changes: Any) -> Interests:
    """Give interests with some values set and the version that follows from all."""
    import dataclasses

    whole = dataclasses.replace(draft, **changes)
    return dataclasses.replace(whole, version=version_of(whole))


def version_of(interests: Interests) -> str:
    """Hash all that decides a count or a weight: 16 hex digits of SHA-256."""
    digest = hashlib.sha256()
    order = np.argsort(np.array(interests.item_ids, dtype=np.str_), kind="stable") if interests.item_ids else []
    facts = [interests.block, interests.groups, interests.week_starts, interests.way, interests.fields]
    facts += [interests.values, interests.amount, interests.digits, [interests.item_ids[i] for i in order]]
    digest.update(repr(facts).encode())
    arrays = [interests.of_item[order] if len(order) else interests.of_item, interests.idf]
    for array in (*arrays, *frozen_arrays(interests).values()):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def frozen_arrays(interests: Interests) -> dict[str, np.ndarray]:
    """Name the arrays of codebook and content encoder."""
    book, content = interests.codebook, interests.content
    found: dict[str, np.ndarray] = {}
    if book is not None:
        found["centres"] = book.centres
        if book.coarse is not None and book.offsets is not None:
            found |= {"coarse": book.coarse, "coarse_offsets": book.offsets}
    if content is not None:
        found |= {f"table.{name}": table for name, table in content.tables.items()}
        found |= {"word": content.word, "weight": content.weight, "bias": content.bias}
    return found


def train_counts(store: Store, until: int) -> np.ndarray:
    """Count the events of each item up to a day: int64 [n_items]."""
    found = np.zeros(len(store.items or []), np.int64)
    for i in range(store.n_shards):
        shard = store.shard(i)
        if shard.item is not None:
            items = shard.item[(shard.day <= until) & (shard.item >= 0)]
            found += np.bincount(items, minlength=len(found))
    return found


def items_until(store: Store, until: int, train: np.ndarray) -> Any:
    """Give the item table as known at the end of a day: values that events brought later are missing for train items.

    Items without an event by then keep theirs: they are looked up, not learnt from.
    """
    import polars as pl

    table, times = store.item_table, store.manifest["tables"].get("item_times")
    if table is None or times is None:
        return table
    end = first_instant(to_date(until + 1), store.schema.time_zone)
    known = pl.read_parquet(store.file(times["file"]))
    is_train = pl.Series(train > 0)
    columns = [
        pl.select(pl.when(~is_train | (known[name] < end)).then(table[name]).alias(name)).to_series()
        for name in table.columns
        if name != "item"
    ]
    return table.with_columns(columns)


def cluster_names(store: Store, of_item: np.ndarray, train: np.ndarray, n: int) -> list[str]:
    """Name each cluster after its most bought train item: its title or category, or its id."""
    labels = _item_labels(store)
    ids = np.array(store.items, dtype=np.str_)
    best = np.lexsort((ids, -train, of_item))
    first = np.unique(of_item[best], return_index=True)
    shown = dict(zip(first[0].tolist(), best[first[1]].tolist()))
    return [labels[shown[k + 1]] if k + 1 in shown else f"(empty {k + 1})" for k in range(n)]


def _check(store: Store, config: InterestConfig) -> None:
    if config.way != "field" and store.items is None:
        raise ConfigError("a store with items", "none", where=f"way = {config.way!r}", fix='use way = "field"')
    if config.way == "field" and not is_of_events(store, config.fields):
        _check_item_columns(store, config.fields)
    wrong = [("groups", name, store.types) for group in config.groups for name in group if name not in store.types]
    if config.amount is not None and config.amount not in store.amounts:
        wrong.append(("amount", config.amount, list(store.amounts)))
    for where, name, known in wrong:
        meant = nearest(name, known)
        fix = f"did you mean {meant!r}?" if meant else ""
        raise ConfigError(f"one of: {', '.join(known)}", repr(name), where=where, fix=fix)


def _check_item_columns(store: Store, fields: tuple[str, ...]) -> None:
    table = store.item_table
    known = ["type", *store.categories, *([] if table is None else table.columns)]
    unknown = [name for name in fields if name not in known]
    if unknown or table is None:
        meant = nearest(unknown[0], known) if unknown else None
        raise ConfigError(
            f"columns of events or of items, out of: {', '.join(known)}", ", ".join(fields), where="fields",
            fix=f"did you mean {meant!r}?" if meant else "",
        )  # fmt: skip
    if mixed := [name for name in fields if name not in table.columns]:
        raise ConfigError("columns of events alone, or of items alone", f"{mixed[0]!r} is of events", where="fields")


def _event_values(store: Store, fields: tuple[str, ...], until: int) -> tuple[str, ...]:
    """List the combinations of texts that occur in train, sorted."""
    names = [[*store.vocabulary(name), ""] for name in fields]
    found = np.zeros((0, len(fields)), np.int32)
    for i in range(store.n_shards):
        shard = store.shard(i)
        taken = shard.day <= until
        columns = [(shard.type if name == "type" else shard.categories[name])[taken] for name in fields]
        found = np.unique(np.concatenate([found, np.stack(columns, 1)]), axis=0)
    texts = {JOIN.join(names[c][code] for c, code in enumerate(row)) for row in found.tolist()}
    return tuple(sorted(texts - {JOIN * (len(fields) - 1)}))


def _item_values(
    store: Store, fields: tuple[str, ...], train: np.ndarray, until: int
) -> tuple[tuple[str, ...], np.ndarray]:
    """Number the field values of train items; every item is looked up, whenever it was first seen."""
    texts = field_texts(items_until(store, until, train), fields)
    seen = {texts[i] for i in np.flatnonzero(train)}
    values = tuple(sorted(seen - {""}))
    place = {value: k + 1 for k, value in enumerate(values)}
    return values, np.fromiter((place.get(text, 0) for text in texts), np.int32, len(texts))


def _each_item(store: Store, train: np.ndarray) -> tuple[np.ndarray, list[str]]:
    labels, ids = _item_labels(store), np.array(store.items, dtype=np.str_)
    seen = np.flatnonzero(train)
    seen = seen[np.argsort(ids[seen], kind="stable")]
    of_item = np.zeros(len(ids), np.int32)
    of_item[seen] = np.arange(1, len(seen) + 1)
    return of_item, [labels[i] for i in seen]


def _clusters(
    store: Store, config: InterestConfig, train: np.ndarray, vectors: np.ndarray, seed: int
) -> tuple[Codebook, np.ndarray]:
    """Cluster the train items in the order of their ids, so that codes do not matter; then place every item.

    Clusters of train items are capped; what is seen later goes to the nearest centre.
    """
    there = np.linalg.norm(vectors, axis=1) > 0
    seen = np.flatnonzero((train > 0) & there)
    if not len(seen):
        raise ConfigError("train items with a vector", "none", where="way = 'cluster'", fix="check the train cut-off")
    seen = seen[np.argsort(np.array(store.items, dtype=np.str_)[seen], kind="stable")]
    n = config.n or int(np.clip(len(seen) // 10, min(LEAST, len(seen)), MOST))
    book, nearest = fit_codebook(vectors[seen], n, seed=seed)
    of_item = np.zeros(len(vectors), np.int32)
    of_item[there] = book.assign(vectors[there]) + 1
    of_item[seen] = capped(book, vectors[seen], nearest) + 1
    return book, of_item


def _item_labels(store: Store) -> list[str]:
    """A readable label per item: its first text, else its categories, else its id."""
    items, table = store.items or [], store.item_table
    if table is None or store.schema.items is None:
        return items
    kinds = {name: part.kind for name, part in store.schema.items.columns.items()}
    titles = [name for name, kind in kinds.items() if kind == "text"]
    chosen = titles[:1] or [name for name, kind in kinds.items() if kind == "category"]
    if not chosen:
        return items
    texts = field_texts(table, chosen)
    return [text.replace(JOIN, " / ") or item for text, item in zip(texts, items)]


def _idf(store: Store, draft: Interests, until: int) -> tuple[np.ndarray, int, dict[str, Any]]:
    """Give idf on the train users, their number, and the figures that show a bad codebook."""
    find = (
        field_lookup(draft, {name: store.vocabulary(name) for name in draft.fields})
        if is_of_events(store, draft.fields)
        else item_lookup(draft.of_item)
    )
    counter = Counter.of(draft, store.types, find)
    df, events, n_users = np.zeros(draft.n, np.int64), np.zeros(draft.n, np.int64), 0
    for i in range(store.n_shards):
        shard = store.shard(i)
        counts = counter(shard, shard.day <= until)
        life = counts.life
        n_users += int((np.diff(life.user_offsets) > 0).sum())
        user = np.repeat(np.arange(counts.n_users), np.diff(life.user_offsets))
        pairs = np.unique(user * draft.n + life.interest)
        df += np.bincount(pairs % draft.n, minlength=draft.n)
        np.add.at(events, life.interest, life.n)
    idf = np.log((1 + n_users) / (1 + df)).astype(np.float32)
    return idf, n_users, _figures(draft, store, until, events, find)


def _figures(draft: Interests, store: Store, until: int, events: np.ndarray, find: Lookup) -> dict[str, Any]:
    total = max(int(events.sum()), 1)
    sizes = np.bincount(draft.of_item[train_counts(store, until) > 0], minlength=draft.n)[1:]
    deciles = np.quantile(sizes, [0, 0.1, 0.5, 0.9, 1.0]).astype(int).tolist() if len(sizes) else []
    return {
        "events_in_train": int(events.sum()),
        "share_of_top_10": float(np.sort(events[1:])[-10:].sum() / total),
        "share_of_0": float(events[0] / total),
        "items_per_interest": dict(zip(("least", "p10", "median", "p90", "most"), deciles)),
        "largest_over_mean": float(sizes.max() / sizes.mean()) if sizes.sum() else 0.0,
        "n_empty": int((events[1:] == 0).sum()),
    }
