"""Evaluate a model of events: the whole catalogue ranked at every test target, beside counts, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from habitus.core.errors import ConfigError
from habitus.core.progress import track
from habitus.core.registry import MODELS, resolve
from habitus.data.cutoffs import ranges
from habitus.data.store import Store
from habitus.metrics.bootstrap import resamples
from habitus.metrics.classes import Groups, frequency_groups, n_classes
from habitus.models.artifact import load_artifact, update_artifact
from habitus.tasks.event_gate import NAMES, best_share, counted
from habitus.tasks.event_recipe import EventRecipe
from habitus.tasks.ranked import Ranked, Seen, Teller, mixed, ranked, teller
from habitus.tasks.ranking_scores import differences, scores_of, table
from habitus.tasks.run import Run, update_metrics
from habitus.tokens.batch import EventBatch
from habitus.tokens.event_loader import EventLoader, prepare_events
from habitus.tokens.event_split import EventPart, EventSplit
from habitus.tokens.events import EventSpec


@dataclass(frozen=True)
class Question:
    """What is ranked: a field of the test targets of a split, or of another part."""

    store: Store
    spec: EventSpec
    split: EventSplit
    field: str
    tokens_per_batch: int = 16_384
    unseen: bool = False

    @property
    def column(self) -> int:
        """Of the field in `ids`."""
        return self.spec.column(self.field)

    def loader(self, part: EventPart) -> EventLoader:
        """Give the targets of a part, each with all the past there is room for; train with as little as possible."""
        context = None if part == "train" else self.spec.length - 1
        is_unseen = self.unseen and part == "test"
        inputs = prepare_events(self.store, self.spec, self.split, part, context=context, unseen=is_unseen)
        return EventLoader(inputs, tokens_per_batch=self.tokens_per_batch)

    @property
    def has_new(self) -> bool:
        """Whether what users had before may be left out: not for a field whose values come again by nature."""
        return self.field == "item"

    def seen(self, loader: EventLoader) -> Seen | None:
        """Give what users had before, in all their past; None where it is kept."""
        return whole_past(loader, self.column) if self.has_new else None

    def ranked(self, tell: Teller, part: EventPart = "test") -> Ranked:
        """Rank the targets of a part, in the order of the log."""
        loader = self.loader(part)
        found = ranked(tell, loader, self.column, self.seen(loader))
        return found.by(loader.stretches.low[found.sample] + found.place)


@dataclass(frozen=True)
class Entry:
    """A model to rank: its question, its members, one per seed, and the temperature that `predict` uses too."""

    question: Question
    members: Sequence[Any]
    temperature: float = 1.0

    def tell(self, members: Sequence[Any]) -> Teller:
        """Give calibrated probabilities of these members."""
        return teller(members, self.question.field, self.temperature)


def whole_past(loader: EventLoader, column: int) -> Seen:
    """Give every value that a user had up to the asking event, however long ago."""
    table, stretches = loader.inputs.table, loader.stretches

    def seen(batch: EventBatch, row: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sample = batch.sample[row].numpy()
        begin = table.offsets[stretches.user[sample]]
        owner, rows = ranges(begin, stretches.low[sample] + place.numpy() + 1)
        return torch.from_numpy(owner), torch.from_numpy(table.ids[rows, column].astype(np.int64))

    return seen


def ranking(
    models: Mapping[str, Entry],
    *,
    gate: Sequence[str] = ("popularity", "popularity_7d", "transition"),
    n_resamples: int = 500,
    seed: int = 0,
    has_mix: bool = True,
) -> dict[str, Any]:
    """Rank the test targets under each model and each row of the gate; give a section of metrics.json.

    Parameters
    ----------
    models
        By name; the first is the one that differences are for. All ask for the same targets (see `check_alike`).
    gate
        Names of `event_gate.NAMES`.
    has_mix
        Add the first model mixed with the transition graph, the share chosen on validation.

    Figures named `new_...` leave out what the user had before; a target that repeats is then lost. Intervals are paired
    over users and do not hold the noise of seeds, which is `seed_sd`. A target unknown to the spec counts as missed
    everywhere, but not in the cross-entropy: nobody could tell it.
    """
    name, entry = next(iter(models.items()))
    question, field = entry.question, entry.question.field
    asked = {n: (e.question, e.tell(e.members)) for n, e in models.items()}
    for row in track(gate, "gate"):
        made = counted(row, question.spec.shape, field, question.loader("train"), question.loader("valid"))
        asked[NAMES[row]] = question, teller([made], field)
    share = None
    if has_mix and NAMES["transition"] in asked:
        valid, (model, graph) = question.loader("valid"), (asked[n][1] for n in (name, NAMES["transition"]))
        share = best_share(model, graph, valid, question.column, question.seen(valid))
        asked[f"{name} + transition graph"] = question, mixed(model, graph, share)
    found = {n: own.ranked(tell) for n, (own, tell) in track(list(asked.items()), "rank")}
    single = [question.ranked(entry.tell([m])) for m in entry.members] if len(entry.members) > 1 else []
    groups = frequency_groups(_train_counts(question))
    user = question.loader("test").stretches.user[found[name].sample]
    drawn = resamples(user, n_resamples, seed=seed)
    scores = {n: scores_of(r, groups, drawn, has_new=question.has_new) for n, r in track(list(found.items()), "score")}
    roles = dict.fromkeys(models, "model") | {NAMES[row]: "gate" for row in gate}
    return {
        "field": field,
        **_counts(found[name], user, groups, question.spec.shape.n_rows(field) - 2),
        "split": question.split.model_dump(mode="json", exclude_none=True),
        "mixed_share": share,
        "models": [{"name": n, "role": roles.get(n, "blend")} for n in asked],
        "table": table(field, scores, found, name, single),
        "differences": differences(field, scores, name),
    }


def _train_counts(question: Question) -> np.ndarray:
    """How often each value is a target in train, [n values]."""
    count = np.zeros(question.spec.shape.n_rows(question.field), np.int64)
    for batch in question.loader("train"):
        count += np.bincount(batch.next_ids[..., question.column][batch.is_target].numpy(), minlength=len(count))
    return count[2:]


def _counts(found: Ranked, user: np.ndarray, groups: Groups, n_values: int) -> dict[str, Any]:
    return {
        "n_targets": len(found),
        "n_users": int(np.unique(user).size),
        "n_values": n_values,
        "n_classes": n_classes(found.told[found.told > 1]),
        "n_unknown": int((found.told < 2).sum()),
        "repeat_share": float(found.is_repeat.mean()),
        "groups": {part: int(getattr(groups, part).sum()) for part in ("head", "tail", "bottom")},
    }


def evaluate_events(run: Run[EventRecipe], against: Sequence[Run[EventRecipe]] = ()) -> dict[str, Any]:
    """Rank the test targets of a run of events beside its gate, and beside other runs; leave it in RUN/metrics.json.

    The section is `ranking`; with users held out of training, `ranking_unseen` is the same for them.

    Errors: `ArtifactError` before training; `ConfigError` for another run that asks for something else.
    """
    recipe = run.recipe
    models = {_name(run): _entry(run)}
    for other in against:
        entry, first = _entry(other), next(iter(models.values()))
        check_alike(first.question, entry.question, str(other.path))
        if other.recipe.name in models:
            raise ConfigError("runs that differ in name", f"two called {other.recipe.name!r}", where=str(other.path))
        models[other.recipe.name] = entry
    rows = tuple(row for row in recipe.gate.rows if row != recipe.model["name"])
    options = {"gate": rows, "n_resamples": recipe.gate.n_resamples, "seed": recipe.gate.seed}
    sections = {"ranking": ranking(models, **options)}
    if recipe.split.unseen_users:
        kept = {n: replace(e, question=replace(e.question, unseen=True)) for n, e in models.items()}
        sections["ranking_unseen"] = ranking(kept, **options)
    metrics = update_metrics(run.path, sections)
    update_artifact(run.artifact_path, metrics=sections)
    return metrics


def _name(run: Run[EventRecipe]) -> str:
    return resolve(MODELS, run.recipe.model["name"], kind="model").__name__


def _entry(run: Run[EventRecipe]) -> Entry:
    recipe, artifact = run.recipe, load_artifact(run.artifact_path)
    spec = EventSpec.from_json(artifact.spec)
    question, temperature = (
        Question(run.store, spec, recipe.split, recipe.field),
        artifact.calibration.get("temperature", 1.0),
    )
    return Entry(question, artifact.members, temperature)


def check_alike(one: Question, other: Question, where: str) -> None:
    """Make sure that two questions have the same targets under the same ids. Errors: `ConfigError`."""
    facts = {
        "store": (one.store.fingerprint[:12], other.store.fingerprint[:12]),
        "split": (one.split, other.split),
        "field": (one.field, other.field),
        "values": (one.spec.values.get(one.field), other.spec.values.get(other.field)),
        "held-out types": (one.spec.tokens.held_out, other.spec.tokens.held_out),
    }
    for name, (wanted, found) in facts.items():
        if wanted != found:
            raise ConfigError(f"a run of the same {name}", str(found)[:80], where=where)
