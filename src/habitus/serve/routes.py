"""The addresses. Each looks up its users, puts the question into a batch, and tells what went wrong in one shape."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as WebError

from habitus.core.errors import ConfigError, HabitusError
from habitus.serve import studio
from habitus.serve.answers import Asked, held_tables
from habitus.serve.batching import Busy, Closing, TooSlow
from habitus.serve.models import DayRun, EventRun, LifeRun, Loaded, UnknownUser
from habitus.serve.safety import said
from habitus.serve.schemas import (
    Alike,
    AlikeAnswer,
    Generate,
    NextAnswer,
    NextEvents,
    Predictions,
    Problem,
    ScopeAnswer,
    ScopeWhatIf,
    Vectors,
    WhatIf,
    WhatIfAnswer,
    Who,
)
from habitus.tasks.generate import Futures, ask_new
from habitus.tasks.rollout import DrawConfig
from habitus.tokens.events import EventSpec

if TYPE_CHECKING:
    from habitus.serve.app import Service

RunName = Annotated[str, Path(min_length=1, max_length=200, examples=["online_retail_demo"])]
NDJSON = "application/x-ndjson"
WRONG: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "Wrong key"},
    404: {"model": Problem, "description": "No such run, or no such user"},
    413: {"model": Problem, "description": "The body is too large"},
    422: {"model": Problem, "description": "The question cannot be answered as it is; the body says what to mend"},
    429: {
        "model": Problem,
        "description": "Too many questions wait",
        "headers": {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}},
    },
    503: {"model": Problem, "description": "Starting or stopping"},
    504: {"model": Problem, "description": "Not answered in time"},
}
KINDS: dict[type, str] = {DayRun: "days", EventRun: "events", LifeRun: "lives"}
WORDS = {"days": "a run of user-days", "events": "a run of events", "lives": "a run of LURM"}
OPEN: dict[int | str, dict[str, Any]] = {401: WRONG[401]}


def add_routes(app: FastAPI, service: Service) -> None:
    """Put every route and every error into the app."""
    _add_errors(app, service)
    _add_page(app, service)
    _add_answers(app, service)
    _add_scopes(app, service)


def _add_page(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="The process lives")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="Questions are taken", responses=_wrong(503))
    async def ready() -> dict[str, Any]:
        if not service.is_ready:
            raise Closing
        return {"status": "ready", "runs": service.models.names}

    @app.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse, responses=OPEN)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    for path in studio.FILES:
        app.add_api_route(path, partial(_file, path), methods=["GET"], include_in_schema=False)

    @app.get("/v1/runs", summary="The runs that are served", responses=OPEN)
    async def runs() -> dict[str, list[dict[str, Any]]]:
        found = [service.models.get(name) for name in service.models.names]
        return {"runs": [{"run": one.name, "kind": KINDS[type(one)], "as_of": one.as_of} for one in found if one]}

    @app.get("/v1/runs/{run}", summary="What a run can answer, and how good it was", responses=_wrong(401, 404))
    async def about(run: RunName) -> dict[str, Any]:
        return studio.about(_run(service, run, tuple(KINDS)))


async def _file(path: str) -> Response:
    body, kind = studio.page(path)
    return Response(body, media_type=kind)


def _add_answers(app: FastAPI, service: Service) -> None:
    async def answer(kind: str, run: str, who: Who, kinds: tuple[type, ...], more: Any = None) -> Response:
        loaded = _run(service, run, kinds)
        question = _question(service, kind, loaded, who, more)
        found = await service.quick.ask(question, question.size, service.config.timeout_s)
        return _json(found)

    @app.post("/v1/runs/{run}/predict", response_model=Predictions, responses=WRONG, summary="Every target of users")
    async def predict(run: RunName, who: Who) -> Response:
        return await answer("predict", run, who, (DayRun,))

    @app.post(
        "/v1/runs/{run}/whatif", response_model=WhatIfAnswer, responses=WRONG, summary="Users under other calendars"
    )
    async def whatif(run: RunName, asked: WhatIf) -> Response:
        return await answer("whatif", run, asked, (DayRun,), asked.alternatives)

    @app.post("/v1/runs/{run}/next", response_model=NextAnswer, responses=WRONG, summary="The next event of users")
    async def next_events(run: RunName, asked: NextEvents) -> Response:
        return await answer("next", run, asked, (EventRun,), {"top": asked.top, "is_new": asked.is_new})

    @app.post("/v1/runs/{run}/embed", response_model=Vectors, responses=WRONG, summary="Users as vectors")
    async def embed(run: RunName, who: Who) -> Response:
        return await answer("embed", run, who, tuple(KINDS))


def _add_scopes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/runs/{run}/totals", response_model=ScopeAnswer, responses=WRONG,
        summary="Totals and days of everybody, a segment or a user, under further calendars",
    )  # fmt: skip
    async def totals(run: RunName, asked: ScopeWhatIf) -> Response:
        loaded = _run(service, run, (DayRun,))
        found = await service.long.ask(partial(studio.scoped, loaded, asked), 1, service.config.timeout_s)  # type: ignore
        return _json(found)

    @app.post("/v1/runs/{run}/similar", response_model=AlikeAnswer, responses=WRONG, summary="Users like a user")
    async def similar(run: RunName, asked: Alike) -> Response:
        loaded = _run(service, run, tuple(KINDS))
        return _json(await service.long.ask(partial(_alike, loaded, asked), 1, service.config.timeout_s))

    @app.post(
        "/v1/runs/{run}/generate", responses=WRONG | {200: {"content": {NDJSON: {"schema": {"type": "string"}}}}},
        response_class=StreamingResponse, summary="Whole futures, one event a line, streamed user by user",
    )  # fmt: skip
    async def generate(run: RunName, asked: Generate) -> StreamingResponse:
        loaded = _run(service, run, (EventRun,))
        assert isinstance(loaded, EventRun)
        question = _question(service, "generate", loaded, asked, None)
        if not loaded.can_generate:
            fix = "serve a run of BehaveGPT of form joint"
            raise ConfigError("a model that generates", loaded.artifact.name, where=f"run {run}", fix=fix)
        ask = partial(service.long.ask, size=1, timeout_s=service.config.timeout_s)
        futures = await ask(partial(_futures, question, asked))
        first = await ask(partial(_drawn, futures, 0))  # what goes wrong at once has a status of its own
        return StreamingResponse(_stream(futures, first, ask), media_type=NDJSON)


def _alike(run: Loaded, asked: Alike) -> dict[str, Any]:
    """Look up who is like a user and, where the run knows them, the interests of all of them."""
    users: list[dict[str, Any]] = [{"user": user, "score": score} for user, score in run.alike(asked.user, asked.top)]
    told = {"run": run.name, "as_of": run.as_of, "users": users}
    if isinstance(run, LifeRun):
        own, *others = run.rows_of([asked.user, *(one["user"] for one in users)])
        told["interests"] = run.made_of(own, top=5)
        told["users"] = [one | more for one, more in zip(users, run.shared(own, np.array(others, np.int64), top=6))]
    return told


def _futures(question: Asked, asked: Generate) -> Futures:
    """Say what to draw: users of the store once each and in its order, or new users as they come."""
    run = question.run
    assert isinstance(run, EventRun)
    draws = DrawConfig.parse({"seed": asked.seed, "max_events": asked.max_events})
    if question.rows is not None:
        users, new = run.users[np.unique(question.rows)], None
    else:
        table = held_tables(run, [(user.user, user) for user in question.histories])[0]
        new = ask_new(run.run, table, run.day, artifact=run.artifact)
        users = np.arange(len(new.users))
    member = run.artifact.members[0]
    spec = EventSpec.from_json(run.artifact.spec)
    return Futures(member, spec, run.run.store, users, run.day, asked.days, asked.samples, draws, asked=new)


def _drawn(futures: Futures, place: int) -> list[str]:
    """Draw the futures of one user, a line of JSON per event."""
    events, _, _ = futures.draw(place, place + 1)
    return [json.dumps(row, default=str) for row in events.to_dicts()]


async def _stream(futures: Futures, first: list[str], ask: Callable[..., Any]) -> AsyncIterator[str]:
    """Give the lines, and at last one that says whether all is there: a cut stream must not look whole."""
    n = 0
    try:
        for i in range(len(futures.users)):
            found = first if i == 0 else await ask(partial(_drawn, futures, i))
            n += len(found)
            if found:
                yield "\n".join(found) + "\n"
        yield json.dumps({"done": True, "n_events": n, "n_users": len(futures.users)}) + "\n"
    except (HabitusError, Busy, TooSlow, Closing) as error:
        yield json.dumps({"done": False, "n_events": n, "because": type(error).__name__}) + "\n"


def _run(service: Service, name: str, kinds: tuple[type, ...]) -> Any:
    if not service.is_ready:
        raise Closing
    found = service.run(name)
    if found is None:
        told = said(f"a run out of: {', '.join(service.models.names)}", "another name", "path")
        raise HTTPException(404, told["error"])
    if not isinstance(found, kinds):
        wanted = " or ".join(WORDS[KINDS[kind]] for kind in kinds)
        raise ConfigError(wanted, f"{name!r}, which is none", where="path", fix="see GET /v1/runs")
    return found


def _question(service: Service, kind: str, run: Loaded, who: Who, more: Any) -> Asked:
    limits = service.config
    if bool(who.users) == bool(who.histories):
        raise ConfigError("users, or histories", "both" if who.users else "neither", where="body")
    n = len(who.users) + len(who.histories)
    if n > limits.users:
        raise ConfigError(f"at most {limits.users:,} users", f"{n:,}", where="body", fix="ask in several requests")
    if who.users:
        return Asked(kind, run, tuple(who.users), run.rows_of(who.users), more=more)
    n_events = sum(len(user.events) for user in who.histories)
    if n_events > limits.events:
        raise ConfigError(f"at most {limits.events:,} events", f"{n_events:,}", where="histories")
    names = tuple(user.user for user in who.histories)
    if len(set(names)) < len(names):
        raise ConfigError("each new user once", "one twice", where="histories")
    return Asked(kind, run, names, None, tuple(who.histories), more)


def _json(found: Any) -> Response:
    return Response(json.dumps(found, separators=(",", ":"), allow_nan=False), media_type="application/json")


def _wrong(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: WRONG[code] for code in codes}


def _add_errors(app: FastAPI, service: Service) -> None:
    def told(status: int, error: HabitusError, headers: dict[str, str] | None = None) -> JSONResponse:
        service.metrics.count("habitus_refused_total", status=str(status), reason=type(error).__name__)
        return JSONResponse(said(error.expected, error.found, error.where, error.fix), status, headers)

    @app.exception_handler(HabitusError)
    async def habitus_error(request: Request, error: HabitusError) -> JSONResponse:
        return told(404 if isinstance(error, UnknownUser) else 422, error)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> JSONResponse:
        many = HabitusError("fewer questions at a time", "too many wait", fix=f"come back in {error.after} s")
        return told(429, many, {"Retry-After": str(error.after)})

    @app.exception_handler(TooSlow)
    async def slow(request: Request, error: TooSlow) -> JSONResponse:
        limit = service.config.timeout_s
        return told(504, HabitusError(f"an answer within {limit:g} s", "none yet", fix="ask about fewer users"))

    @app.exception_handler(Closing)
    async def closing(request: Request, error: Closing) -> JSONResponse:
        return told(503, HabitusError("a service that is ready", "one that starts or stops"), {"Retry-After": "2"})

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return told(422, HabitusError(str(first["msg"])[:300], "another value", where=place, fix="see /openapi.json"))

    @app.exception_handler(WebError)
    @app.exception_handler(404)
    @app.exception_handler(405)
    async def http(request: Request, error: Any) -> JSONResponse:
        if error.status_code == 400:  # a body that is not even text
            return told(422, HabitusError("JSON in UTF-8", "something else", where="body"))
        plain = said("an address of the service", str(error.detail), fix="see /openapi.json")["error"]
        detail = error.detail if isinstance(error.detail, dict) else plain
        return JSONResponse({"error": detail}, error.status_code, error.headers)
