"""Micro-batching: questions that arrive within a window are answered together, by one thread, within a time limit."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Busy(Exception):
    """Too many questions wait already; `after` seconds are a good time to come back."""

    def __init__(self, after: int) -> None:
        super().__init__(after)
        self.after = after


class TooSlow(Exception):
    """The answer did not come within the time limit."""


class Closing(Exception):
    """The service is being stopped: what was asked is answered, nothing new is taken."""


class _Waiting:
    __slots__ = ("answer", "arrived", "question", "size")

    def __init__(self, question: Any, size: int, answer: asyncio.Future[Any]) -> None:
        self.question, self.size, self.answer, self.arrived = question, size, answer, time.perf_counter()


class Batcher:
    """Gather questions for at most `window_s`, or until `most` users are asked about, and work on them in a thread.

    `work` takes questions and gives, in order, an answer or an exception for each. A question that was given up (its
    time is over, its client has gone) is not worked on. While the thread works, the next batch gathers.
    """

    def __init__(
        self, work: Callable[[Sequence[Any]], Sequence[Any]], *, window_s: float, most: int, waiting: int,
        observe: Callable[[int, int, float], None] = lambda n, size, seconds: None,
    ) -> None:  # fmt: skip
        self._work, self._window, self._most, self._limit = work, window_s, most, waiting
        self._queue: deque[_Waiting] = deque()
        self._n_open, self._is_closing = 0, False
        self._arrived = asyncio.Event()
        self._observe = observe
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._task: asyncio.Task[None] | None = None
        self._seconds = 0.05  # of a recent batch, smoothed

    @property
    def n_open(self) -> int:
        """Questions that wait or are being answered."""
        return self._n_open

    def start(self) -> None:
        """Begin to answer; needs a running loop."""
        self._task = asyncio.create_task(self._run())

    async def ask(self, question: Any, size: int, timeout_s: float) -> Any:
        """Wait for the answer. Errors: `Busy`, `TooSlow`, `Closing`, and whatever answering raised."""
        if self._is_closing:
            raise Closing
        if self._n_open >= self._limit:
            raise Busy(max(1, round(self._seconds * self._n_open / 8)))
        waiting = _Waiting(question, size, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._n_open += 1
        self._arrived.set()
        try:
            return await asyncio.wait_for(waiting.answer, timeout_s)
        except TimeoutError:
            raise TooSlow from None
        finally:
            self._n_open -= 1

    async def stop(self) -> None:
        """Answer what was asked, take nothing new, and end the thread."""
        self._is_closing = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown(wait=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue or not self._is_closing:
            if not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await self._gather()
            batch = self._taken()
            if not batch:
                continue
            began = time.perf_counter()
            try:
                found = await loop.run_in_executor(self._thread, self._work, [one.question for one in batch])
            except Exception as error:
                found = [error] * len(batch)
            seconds = time.perf_counter() - began
            self._seconds += 0.2 * (seconds - self._seconds)
            self._observe(len(batch), sum(one.size for one in batch), seconds)
            for one, answer in zip(batch, found):
                if one.answer.done():
                    continue
                if isinstance(answer, BaseException):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)

    async def _gather(self) -> None:
        """Wait for company until the first question's window is over, or the batch is full."""
        due = self._queue[0].arrived + self._window
        while not self._is_closing and sum(one.size for one in self._queue) < self._most:
            left = due - time.perf_counter()
            if left <= 0:
                return
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                return

    def _taken(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and (not batch or size + self._queue[0].size <= self._most):
            one = self._queue.popleft()
            if not one.answer.done():
                batch.append(one)
                size += one.size
        return batch
