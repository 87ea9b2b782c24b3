"""The table that models read: numbers of the thread, its wording, its vector, and what the lookup knows of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from habitus.apps.personas.encode import TextEncoder
from habitus.apps.personas.features import TIMES, WORDING, wording
from habitus.apps.personas.lookup import NEW, Asked, Found, LookupStore, chain, keys_of
from habitus.apps.personas.rows import Rows, fold_of
from habitus.apps.personas.settings import PersonasRecipe


@dataclass(frozen=True)
class Design:
    """n rows as models read them.

    Attributes
    ----------
    numbers
        float32 [n, m], columns `names`; the trees read all of them, the network those that are not of the text.
    vectors
        float32 [n, width]: the encoder's vector of each row's text.
    shares
        float64 [n, A] of the lookup per level, as `chain` gives them.
    support, top
        How many answers the store knows for this persona and post, and the share of the most frequent one.
    """

    numbers: np.ndarray
    names: tuple[str, ...]
    vectors: np.ndarray
    shares: dict[str, np.ndarray]
    own: np.ndarray
    exact: np.ndarray

    @property
    def support(self) -> np.ndarray:
        return self.exact.sum(axis=1)


class Designer:
    """Holds what was fitted; turns rows into a design, training rows without their own fold."""

    def __init__(
        self, recipe: PersonasRecipe, encoder: TextEncoder, store: LookupStore, lift_weight: float = 1.0
    ) -> None:
        self.recipe, self.encoder, self.store, self.lift_weight = recipe, encoder, store, lift_weight

    def found(self, rows: Rows, *, is_train: bool) -> tuple[Found, np.ndarray]:
        """Ask the store: what it knows, and the vectors of the distinct texts."""
        vectors = self.encoder.encode(rows.texts)
        group = self.encoder.groups(vectors)[rows.text_of]
        near = rows.near
        if self.recipe.source == "threads":
            first = np.zeros(len(rows.texts), np.uint64)
            first[rows.text_of] = rows.key
            near = self.store.near(first, rows.texts, self.recipe.lookup.jaccard)[rows.text_of]
        fold = fold_of(rows.content, self.recipe.lookup.n_folds) if is_train else np.full(len(rows), NEW, np.int16)
        return self.store.look(Asked(keys_of(rows.cluster, rows.key, near, group), fold)), vectors

    def design(self, rows: Rows, *, is_train: bool = False) -> Design:
        """Give the design of rows; `is_train` leaves out the fold of each row."""
        found, vectors = self.found(rows, is_train=is_train)
        return self.assemble(rows, found, vectors)

    def assemble(self, rows: Rows, found: Found, vectors: np.ndarray) -> Design:
        """Put the columns side by side; the order never changes."""
        shares = chain(found, self.recipe.lookup, self.lift_weight)
        named = dict(zip(rows.names, rows.numbers.T))
        if not self.recipe.has_action_time:
            named = {name: column for name, column in named.items() if name not in TIMES[:2]}
        labels = self.recipe.labels
        columns = [np.stack(list(named.values()), axis=1), np.log(shares["own"]), np.log(shares["group"])]
        names = [*named, *(f"log_own_{a}" for a in labels), *(f"log_group_{a}" for a in labels)]
        support = [np.log1p(found.counts[level].sum(axis=1)) for level in ("near", "exact", "own", "group")]
        columns.append(np.stack(support, axis=1))
        names += [f"n_{level}" for level in ("near", "exact", "own", "group")]
        if self.recipe.source == "threads":
            columns.append(wording(rows.texts)[rows.text_of])
            names += list(WORDING)
        n_read = min(self.recipe.text.read_by_trees, vectors.shape[1])
        columns.append(vectors[rows.text_of, :n_read])
        names += [f"text_{i}" for i in range(n_read)]
        numbers = np.concatenate([np.asarray(each, np.float32) for each in columns], axis=1)
        return Design(numbers, tuple(names), vectors[rows.text_of], shares, found.counts["own"], found.counts["exact"])
