"""Names in recipes -> where their class lives. Plain dicts of strings, so that looking costs no import."""

from __future__ import annotations

import importlib
from typing import Any

from habitus.core.errors import ConfigError, nearest

MODELS = {
    "lumos": "habitus.models.lumos:Lumos",
    "sasrec": "habitus.models.sasrec:SASRec",
    "gru4rec": "habitus.models.gru4rec:GRU4Rec",
    "hstu": "habitus.models.hstu:HSTU",
    "caser": "habitus.models.caser:Caser",
    "transition": "habitus.models.transition:Transition",
    "popularity": "habitus.models.popularity:Popularity",
    "history_density": "habitus.models.history_density:HistoryDensity",
    "behavegpt": "habitus.models.behavegpt:BehaveGPT",
    "lurm": "habitus.models.lurm:Lurm",
    "coles": "habitus.models.coles:Coles",
    "ctr_mlp": "habitus.models.ctr_mlp:CtrMLP",
    "din": "habitus.models.din:DIN",
    "time_bst": "habitus.models.time_bst:TimeBST",
}

SOURCES = {
    "online_retail": "habitus.data.sources.online_retail:online_retail",
    "complete_journey": "habitus.data.sources.complete_journey:complete_journey",
    "oulad": "habitus.data.sources.oulad:oulad",
    "stats_se": "habitus.data.sources.stats_se:stats_se",
    "item_sequences": "habitus.data.sources.item_sequences:item_sequences",
    "recbole": "habitus.data.sources.recbole:recbole",
    "movielens_100k": "habitus.data.sources.movielens:movielens_100k",
    "movielens_1m": "habitus.data.sources.movielens:movielens_1m",
    "lastfm_titles": "habitus.data.sources.lastfm_titles:lastfm_titles",
    "simulator": "habitus.data.sources.simulator:simulated_log",
    "tail_world": "habitus.data.sources.event_worlds:tail_world",
    "rules_world": "habitus.data.sources.event_worlds:rules_world",
    "wide_world": "habitus.data.sources.interest_worlds:wide_world",
    "long_memory_world": "habitus.data.sources.interest_worlds:long_memory_world",
    "twins_world": "habitus.data.sources.interest_worlds:twins_world",
    "drift_world": "habitus.data.sources.interest_worlds:drift_world",
}


def resolve(table: dict[str, str], name: str, *, kind: str) -> Any:
    """Import and give what `name` stands for; an unknown name is a `ConfigError` with the nearest one.

    >>> resolve({"sqrt": "math:sqrt"}, "sqrt", kind="function")(9.0)
    3.0
    """
    if name not in table:
        meant = nearest(name, table)
        fix = f"did you mean {meant!r}?" if meant else ""
        raise ConfigError(f"a {kind} out of: {', '.join(sorted(table))}", repr(name), fix=fix)
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
