"""Names in recipes -> recommenders, with the keys each one has of its own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from habitus.apps.bubble.catalogue import Catalogue
from habitus.apps.bubble.recommenders import Recommender
from habitus.core.errors import ConfigError, nearest

# name -> class, and keys that the name stands for
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("recommenders:Random", {}),
    "popularity": ("recommenders:PopularItems", {}),
    "item_knn": ("recommenders:ItemKNN", {}),
    "als": ("recommenders:Als", {}),
    "mf_bpr": ("factors:Factors", {"n_layers": 0}),
    "lightgcn": ("factors:Factors", {"n_layers": 2, "batch": 16_384, "lr": 1e-2, "epochs": 40}),
    "caser": ("sequences:Sequences", {"kind": "caser"}),
    "sasrec": ("sequences:Sequences", {"kind": "sasrec", "model": {"n_blocks": 1}}),
    "gru4rec": ("sequences:Sequences", {"kind": "gru4rec"}),
    "artifact": ("artifacts:TrainedRun", {}),
    "responder": ("recommenders:Responder", {}),
}
FAMILY = {
    "random": "no model", "popularity": "no model", "item_knn": "static", "als": "static", "mf_bpr": "static",
    "lightgcn": "static", "caser": "sequential", "sasrec": "sequential", "gru4rec": "sequential",
    "artifact": "trained elsewhere", "responder": "ruler",
}  # fmt: skip


def make_recommender(values: Mapping[str, Any], catalogue: Catalogue, *, where: str = "recommenders") -> Recommender:
    """Make one from `kind` and its keys. Errors: `ConfigError` for an unknown kind or key.

    >>> import numpy as np
    >>> shop = Catalogue.of(("a", "b"), ("x",), np.ones((2, 1)))
    >>> type(make_recommender({"kind": "mf_bpr", "epochs": 3}, shop)).__name__
    'Factors'
    """
    maker, config = _parsed(values, where)
    return maker(config, catalogue)


def check_recommender(values: Mapping[str, Any], *, where: str = "recommenders") -> None:
    """Check the keys of one and make nothing. Errors: as `make_recommender`."""
    _parsed(values, where)


def _parsed(values: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    given = dict(values)
    kind = str(given.pop("kind", ""))
    if kind not in KINDS:
        meant = nearest(kind, KINDS)
        fix = f"did you mean {meant!r}?" if meant else ""
        raise ConfigError(f"a kind out of: {', '.join(KINDS)}", repr(kind), where=where, fix=fix)
    home, own = KINDS[kind]
    module, _, name = home.partition(":")
    maker = getattr(importlib.import_module(f"habitus.apps.bubble.{module}"), name)
    return maker, maker.Config.parse(own | given, where=where)
