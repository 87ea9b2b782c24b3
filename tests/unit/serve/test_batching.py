"""Micro-batches: who is answered together, what limits say, and that a stop answers what was asked."""

from __future__ import annotations

import asyncio
import threading

import pytest

from habitus.serve.batching import Batcher, Busy, Closing, TooSlow


def run(scenario, work, **options):
    sizes: list[int] = []

    async def whole():
        settings = {"window_s": 0.2, "most": 100, "waiting": 100} | options
        batcher = Batcher(work, observe=lambda n, size, seconds: sizes.append(n), **settings)
        batcher.start()
        try:
            return await scenario(batcher)
        finally:
            await batcher.stop()

    return asyncio.run(whole()), sizes


def test_questions_of_one_window_are_answered_together_each_with_its_own():
    async def ask(batcher):
        return await asyncio.gather(*(batcher.ask(i, 1, 30) for i in range(5)))

    found, sizes = run(ask, lambda questions: [q * 10 for q in questions])
    assert found == [0, 10, 20, 30, 40]
    assert sizes == [5]


def test_a_full_batch_does_not_wait_and_none_holds_more_than_it_may():
    async def ask(batcher):
        return await asyncio.gather(*(batcher.ask(i, 2, 30) for i in range(4)))

    found, sizes = run(ask, lambda questions: list(questions), most=4, window_s=30)
    assert found == [0, 1, 2, 3]
    assert sizes == [2, 2]


def test_an_error_of_one_question_is_its_own():
    def work(questions):
        return [ValueError("no") if q == 1 else q for q in questions]

    async def ask(batcher):
        return await asyncio.gather(*(batcher.ask(i, 1, 30) for i in range(3)), return_exceptions=True)

    found, _ = run(ask, work)
    assert found[0] == 0
    assert isinstance(found[1], ValueError)
    assert found[2] == 2


def test_work_that_fails_as_a_whole_is_told_to_all_and_the_next_batch_is_answered():
    calls = []

    def work(questions):
        calls.append(len(questions))
        if len(calls) == 1:
            raise RuntimeError("broken")
        return list(questions)

    async def ask(batcher):
        first = await asyncio.gather(*(batcher.ask(i, 1, 30) for i in range(2)), return_exceptions=True)
        return first, await batcher.ask(7, 1, 30)

    (first, second), _ = run(ask, work)
    assert all(isinstance(error, RuntimeError) for error in first)
    assert second == 7


def test_too_many_are_told_when_to_come_back_and_too_slow_is_given_up():
    go = threading.Event()

    def work(questions):
        go.wait(30)
        return list(questions)

    async def ask(batcher):
        slow = asyncio.gather(*(batcher.ask(i, 1, 0.2) for i in range(2)), return_exceptions=True)
        await asyncio.sleep(0.05)
        with pytest.raises(Busy) as busy:
            await batcher.ask(2, 1, 30)
        found = await slow
        go.set()
        return busy.value.after, found, batcher.n_open

    (after, found, n_open), _ = run(ask, work, waiting=2, window_s=0)
    assert after >= 1
    assert all(isinstance(error, TooSlow) for error in found)
    assert n_open == 0


def test_a_question_that_was_given_up_is_not_worked_on():
    seen, go = [], threading.Event()

    def work(questions):
        seen.extend(questions)
        go.wait(30)
        return list(questions)

    async def ask(batcher):
        first = asyncio.create_task(batcher.ask("first", 1, 30))
        while not seen:
            await asyncio.sleep(0.01)
        with pytest.raises(TooSlow):
            await batcher.ask("late", 1, 0.05)
        go.set()
        return await first

    found, _ = run(ask, work, window_s=0)
    assert found == "first"
    assert seen == ["first"]


def test_a_stop_answers_what_was_asked_and_takes_nothing_new():
    async def ask(batcher):
        asked = asyncio.create_task(batcher.ask(1, 1, 30))
        await asyncio.sleep(0)
        await batcher.stop()
        with pytest.raises(Closing):
            await batcher.ask(2, 1, 30)
        return await asked

    found, _ = run(ask, lambda questions: list(questions), window_s=30)
    assert found == 1
