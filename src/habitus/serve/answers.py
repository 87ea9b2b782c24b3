"""One batch of questions to plain values: those of one run and kind share an encoding; each answer is its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from habitus.data.calendar import Calendar
from habitus.data.calendar_edits import Edits
from habitus.serve.models import DayRun, EventRun, LifeRun, Loaded
from habitus.serve.schemas import Alternative, NewUser
from habitus.tasks.answer_events import event_vectors, next_values
from habitus.tasks.embed import vectors_of
from habitus.tasks.forecast import forecast
from habitus.tasks.predict import QUANTILES
from habitus.tasks.whatif.evidence import changes_of, described
from habitus.tasks.whatif.futures import Answer, Future, answers
from habitus.tasks.whatif.question import Question, read_question
from habitus.tokens.day_requests import day_request, with_members
from habitus.tokens.loader import Inputs

PLANNED = "as planned"


@dataclass(frozen=True)
class Asked:
    """A question: `kind`, the run as it was when it came, the users by row or by history, and what else it needs."""

    kind: str
    run: Loaded
    users: tuple[str, ...]
    rows: np.ndarray | None
    histories: tuple[NewUser, ...] = ()
    more: Any = None

    @property
    def size(self) -> int:
        return len(self.users)

    @property
    def group(self) -> tuple[Any, ...]:
        """Questions of one group are answered by one pass over the model."""
        return self.kind, id(self.run), self.rows is None, _key(self.kind, self.more)


def _key(kind: str, more: Any) -> str:
    return calendar_key(more) if kind == "whatif" else json.dumps(more, sort_keys=True)


def calendar_key(alternatives: Sequence[Alternative]) -> str:
    """Give one text for equal alternatives."""
    return json.dumps([one.model_dump(mode="json", exclude_none=True) for one in alternatives], sort_keys=True)


def work(questions: Sequence[Asked]) -> list[Any]:
    """Answer a batch: groups one after the other; what one group or question gets wrong, the others do not feel."""
    found: list[Any] = [None] * len(questions)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, one in enumerate(questions):
        groups.setdefault(one.group, []).append(i)
    for places in groups.values():
        for i, answer in zip(places, _group([questions[i] for i in places])):
            found[i] = answer
    return found


def _group(questions: list[Asked]) -> list[Any]:
    answer = ANSWERS[questions[0].kind]
    try:
        return answer(questions)
    except Exception as error:
        if len(questions) == 1:
            return [error]
        return [_group([one])[0] for one in questions]


def _inputs(questions: list[Asked]) -> tuple[Inputs, list[np.ndarray]]:
    """Give the inputs of all questions, each user once, and the rows of each question in them."""
    run = questions[0].run
    assert isinstance(run, DayRun)
    if questions[0].rows is None:
        frames, profiles, audiences = held_tables(run, [u for one in questions for u in numbered(one, questions)])
        inputs = day_request(run.base, frames, profiles=profiles, audiences=audiences)
        ends = np.cumsum([one.size for one in questions])
        return inputs, [np.arange(end - one.size, end) for one, end in zip(questions, ends)]
    rows = np.concatenate([one.rows for one in questions if one.rows is not None])
    unique, place = np.unique(rows, return_inverse=True)
    return run.inputs(unique), np.split(place, np.cumsum([one.size for one in questions])[:-1])


def numbered(one: Asked, questions: list[Asked]) -> list[tuple[str, NewUser]]:
    """Give new users an id that no other question's users have."""
    place = next(i for i, other in enumerate(questions) if other is one)
    return [(f"{place}/{user.user}", user) for user in one.histories]


def held_tables(
    run: Loaded, users: Sequence[tuple[str, NewUser]]
) -> tuple[pl.DataFrame, list[dict[str, Any]], dict[str, list[str]]]:
    """Turn new users into the tables that the builders of inputs read: a row per event, per profile, per audience."""
    events = [(name, event) for name, user in users for event in user.events]
    schema = run.run.store.schema.events
    columns: dict[str, Any] = {"user": [name for name, _ in events], "time": [event.time for _, event in events]}
    columns["type"] = [event.type for _, event in events]
    columns["item"] = pl.Series([event.item for _, event in events], dtype=pl.String)
    columns["session"] = pl.Series([event.session for _, event in events], dtype=pl.String)
    for name in schema.amounts:
        columns[name] = pl.Series([event.amounts.get(name) for _, event in events], dtype=pl.Float64)
    for name in schema.categories:
        columns[name] = pl.Series([event.categories.get(name) for _, event in events], dtype=pl.String)
    profiles = [{"user": name} | user.profile for name, user in users if user.profile]
    audiences: dict[str, list[str]] = {}
    for name, user in users:
        for audience in user.audiences:
            audiences.setdefault(audience, []).append(name)
    return pl.DataFrame(columns), profiles, audiences


def predicted(questions: list[Asked]) -> list[dict[str, Any]]:
    """Forecast every target of every user; values as the batch path gives them."""
    run = questions[0].run
    assert isinstance(run, DayRun)
    inputs, places = _inputs(questions)
    found = forecast(run.artifact.members, run.heads, inputs, run.artifact.calibration)
    names = [head.name for head in run.heads.window]
    is_amount = [head.kind != "binary" for head in run.heads.window]
    mean, quantile = found.mean.tolist(), found.quantile.tolist()
    users = [
        [
            {"target": name, "value": value, "quantiles": dict(zip(QUANTILES, levels)) if has else None}
            for name, value, levels, has in zip(names, mean[i], quantile[i], is_amount)
        ]
        for i in range(len(mean))
    ]
    return [_told(one, users=[{"user": u, "targets": users[i]} for u, i in zip(one.users, place.tolist())])
            for one, place in zip(questions, places)]  # fmt: skip


def question_of(run: DayRun, alternatives: Sequence[Alternative]) -> Question:
    """Apply the edits to the calendar as planned. Errors: `CalendarError`, which names the edit."""
    known: Calendar = run.run.store.calendar
    rows = [
        Edits.build(
            [{k: str(v) if not isinstance(v, int | float) else v for k, v in edit.model_dump(exclude_none=True).items()}
             for edit in one.edits],
            where=one.name.replace("/", "-"),
        )
        for one in alternatives
    ]  # fmt: skip
    return read_question((), rows, known, run.day, event_types=run.spec.event_types)


def _understood(run: DayRun, alternatives: Sequence[Alternative]) -> tuple[Question, list[dict[str, Any]]]:
    question = question_of(run, alternatives)
    return question, evidence(run, question)


def _futures(
    run: DayRun, inputs: Inputs, question: Question, key: str, audiences: dict[str, list[str]]
) -> list[Future]:
    if inputs.store is run.run.store:
        known = run.known(key, list(zip(question.names[1:], question.calendars[1:])))
        others = [inputs.with_known(one) for _, _, one in known]
    else:
        users = inputs.store.users["user"].to_numpy()
        others = [inputs.with_calendar(with_members(one, audiences), users) for one in question.calendars[1:]]
    return [Future(inputs, has_detail=True), *(Future(other, has_detail=True) for other in others)]


def changed(questions: list[Asked]) -> list[dict[str, Any]]:
    """Answer what-if per user: all questions of the group have the same alternatives."""
    run = questions[0].run
    assert isinstance(run, DayRun)
    key = calendar_key(questions[0].more)
    question, changes = run.remembered(key, lambda: _understood(run, questions[0].more))
    inputs, places = _inputs(questions)
    audiences = held_tables(run, [u for one in questions for u in numbered(one, questions)])[2]
    futures = _futures(run, inputs, question, key, audiences)
    found = answers(run.artifact.members, run.heads, futures, run.plan, run.artifact.calibration)
    outcomes = _outcomes(run, question.names, found)
    facts = {"calendars": list(question.names), "changes": changes}
    return [_told(one, users=[{"user": u, "outcomes": outcomes[i]} for u, i in zip(one.users, place.tolist())], **facts)
            for one, place in zip(questions, places)]  # fmt: skip


def _outcomes(run: DayRun, names: Sequence[str], found: list[Answer]) -> list[list[dict[str, Any]]]:
    targets = [head.name for head in run.heads.window]
    value = np.stack([answer.mean for answer in found], axis=2)  # n K C
    days = np.stack([answer.by_days for answer in found], axis=2)
    gap, by_days = (value - value[:, :, :1]).tolist(), (days - days[:, :, :1]).tolist()
    return [
        [
            {"target": target, "calendar": name, "value": row[k][c], "difference": gap[i][k][c],
             "by_days": by_days[i][k][c] if by_days[i][k][c] == by_days[i][k][c] else None}
            for k, target in enumerate(targets)
            for c, name in enumerate(names)
        ]
        for i, row in enumerate(value.tolist())
    ]  # fmt: skip


def evidence(run: DayRun, question: Question) -> list[dict[str, Any]]:
    """Say what each alternative changes, and what kind of evidence stands behind it."""
    base, first = question.base, run.run.store.first_day
    return [
        change
        for name, calendar in zip(question.names[1:], question.calendars[1:])
        for change in described(changes_of(base, calendar, run.day), name, base, run.day, first)
    ]


def embedded(questions: list[Asked]) -> list[dict[str, Any]]:
    """Give the vector of every user."""
    run = questions[0].run
    if isinstance(run, EventRun):
        return [_event_vectors(one, run) for one in questions]
    if isinstance(run, LifeRun):
        return [_life_vectors(one, run) for one in questions]
    assert isinstance(run, DayRun)
    inputs, places = _inputs(questions)
    vectors = vectors_of(run.artifact.members[0], inputs).tolist()
    return [_told(one, users=[{"user": u, "vector": vectors[i]} for u, i in zip(one.users, place.tolist())])
            for one, place in zip(questions, places)]  # fmt: skip


def _event_inputs(one: Asked, run: EventRun) -> tuple[Any, np.ndarray]:
    """Look up the users of one question, each once, and the place of each."""
    if one.rows is None:
        table, _, _ = held_tables(run, [(user.user, user) for user in one.histories])
        return run.asked(None, table), np.arange(one.size)
    unique, place = np.unique(one.rows, return_inverse=True)
    return run.asked(unique), place


def _event_vectors(one: Asked, run: EventRun) -> dict[str, Any]:
    asked, place = _event_inputs(one, run)
    vectors = event_vectors(asked)["vector"].to_list()
    return _told(one, users=[{"user": u, "vector": vectors[i]} for u, i in zip(one.users, place.tolist())])


def _life_vectors(one: Asked, run: LifeRun) -> dict[str, Any]:
    if one.rows is None:
        vectors = run.new(held_tables(run, [(user.user, user) for user in one.histories])[0])
    else:
        vectors = run.flat(one.rows)
    return _told(one, users=[{"user": u, "vector": v} for u, v in zip(one.users, vectors.tolist())])


def next_events(questions: list[Asked]) -> list[dict[str, Any]]:
    """Give the most probable values of the next event's field, per user."""
    run = questions[0].run
    assert isinstance(run, EventRun)
    field, found = run.run.recipe.field, []
    for one in questions:
        asked, place = _event_inputs(one, run)
        table = next_values(asked, field, **one.more)
        owner = pl.DataFrame({"user": asked.users, "row": np.arange(len(asked.users))})
        row = table.join(owner, on="user", maintain_order="left")["row"].to_list()
        values: list[list[dict[str, Any]]] = [[] for _ in range(len(asked.users))]
        for i, rank, value, chance in zip(row, table["rank"], table[field].cast(pl.String), table["probability"]):
            values[i].append({"rank": rank, "value": value, "probability": chance})
        users = [{"user": u, "values": values[i]} for u, i in zip(one.users, place.tolist())]
        found.append(_told(one, field=field, users=users))
    return found


def _told(one: Asked, **facts: Any) -> dict[str, Any]:
    as_of = None if one.rows is None and isinstance(one.run, EventRun) else one.run.as_of
    return {"run": one.run.name, "as_of": as_of} | facts


ANSWERS: dict[str, Callable[[list[Asked]], list[dict[str, Any]]]] = {
    "predict": predicted,
    "whatif": changed,
    "embed": embedded,
    "next": next_events,
}
