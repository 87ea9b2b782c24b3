"""What a model of events is set beside: counts, made on the fly from the part it was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from habitus.core.errors import ConfigError, nearest
from habitus.metrics.ranking import row_scores
from habitus.models.popularity import Popularity, PopularityConfig
from habitus.models.transition import Transition, TransitionConfig, likelihoods
from habitus.tasks.ranked import Seen, Teller, ranked_mixes
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import EventShape

NAMES = {
    "popularity": "popularity",
    "popularity_7d": "popularity, last 7 days",
    "transition": "transition graph",
}
SHARES = (0.1, 0.2, 0.3, 0.5)
REACHES = (1, 10, 30)  # steps between the events of a pair, of the graphs that validation chooses from


def counted(
    name: str, shape: EventShape, field: str, train: Iterable[EventBatch], valid: Iterable[EventBatch]
) -> Popularity | Transition:
    """Count one row of the gate.

    `popularity`: how often each value is a target in train. `popularity_7d`: in the 7 days before the end of
    validation, that is before the test begins. `transition`: what follows what in train; how far a pair may
    reach, its smoothing, and how many last events vote, by the likelihood of validation. Errors: `ConfigError` for
    another name.
    """
    if name == "popularity":
        return Popularity.counted(PopularityConfig.parse({"field": field}), shape, train)
    if name == "popularity_7d":
        return Popularity.counted(PopularityConfig.parse({"field": field, "days": 7}), shape, train).also(valid)
    if name == "transition":
        configs = [TransitionConfig.parse({"field": field, "reach": reach}) for reach in REACHES]
        graphs = [Transition.counted(config, shape, train).tuned(valid) for config in configs]
        return graphs[int(np.argmax(likelihoods(graphs, valid)))]
    meant = nearest(name, NAMES)
    fix = f"did you mean {meant!r}?" if meant else ""
    raise ConfigError(f"rows out of: {', '.join(NAMES)}", repr(name), where="gate.rows", fix=fix)


def best_share(
    model: Teller,
    graph: Teller,
    valid: Iterable[EventBatch],
    column: int,
    seen: Seen | None,
    shares: Sequence[float] = SHARES,
) -> float:
    """Give the share of the graph in a mix that has the best NDCG@10 on validation; `shares` are those tried."""
    found = ranked_mixes(model, graph, shares, valid, column, seen)
    gains = [row_scores(r.rank if seen is None else r.rank_new, 10, "ndcg").mean() for r in found]
    return shares[int(np.argmax(gains))]
