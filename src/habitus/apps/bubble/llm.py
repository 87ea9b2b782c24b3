"""An agent that a language model plays, behind the same interface as the rules. Optional, slow, and checked strictly.

Anything that turns a prompt into text will do: `folder_answers` reads answers from files, `chat_answers` asks an
OpenAI-compatible endpoint with nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from habitus.apps.bubble.policies import Page, RulePolicy, State
from habitus.core.errors import ConfigError

LEVELS = ("", "low", "medium", "high")
ATTITUDE = {
    "positive": "You want to see new kinds of things and you look around a lot.",
    "negative": "You trust what you are offered and you are content with what you know.",
}


@dataclass
class Tally:
    """What the answers cost and how often they failed."""

    asked: int = 0
    cached: int = 0
    failed: int = 0
    characters: int = 0
    agreed: list[float] = field(default_factory=list)  # share of watch decisions equal to the rules', per page


class LLMPolicy:
    """A language model decides what is taken and when to leave.

    Each agent and page is one prompt: traits, attitude, tastes, the page. The answer must be JSON,
    `{"take": [numbers of the page], "leave": true or false}`; anything else is asked again once, then counted as failed
    and decided by the rules. Equal prompts are asked once (`cache` is a folder). Above `budget` characters the rules
    decide. `tally` counts all of it.

    Errors: `ConfigError` when items have no titles to show.

    Parameters
    ----------
    rules
        What decides when the model does not, and what its decisions are compared with.
    answer
        From prompt to text.
    titles, likes
        Words per item [V]; words per agent for what it likes.
    """

    def __init__(
        self,
        rules: RulePolicy,
        answer: Callable[[str], str],
        *,
        titles: Sequence[str],
        likes: Sequence[str],
        cache: str | Path | None = None,
        budget: int = 2_000_000,
    ) -> None:
        if len(titles) != rules.is_in.shape[0] or len(likes) != len(rules.agents):
            raise ConfigError(
                "a title per item and words per agent", f"{len(titles)} and {len(likes)}", where="LLMPolicy"
            )
        self.rules, self.answer, self.titles, self.likes = rules, answer, titles, likes
        self.half_life, self.budget = rules.half_life, budget
        self.cache = Path(cache) if cache is not None else None
        self.tally, self.known = Tally(), {}

    def decide(self, page: Page, state: State) -> tuple[np.ndarray, np.ndarray]:
        """See `Policy`. One prompt per agent that has a page before it."""
        taken, leaves = self.rules.decide(page, state)
        ruled = taken.copy()
        for agent in np.flatnonzero((page.items >= 0).any(axis=1)).tolist():  # prompts are asked one by one anyway
            given = self._asked(self.prompt(agent, page, state), int((page.items[agent] >= 0).sum()))
            if given is not None:
                taken[agent] = np.isin(np.arange(page.items.shape[1]), given[0])
                leaves[agent] = given[1]
        is_there = page.items >= 0
        if is_there.any():
            self.tally.agreed.append(float((taken == ruled)[is_there].mean()))
        return taken & is_there, leaves

    def prompt(self, agent: int, page: Page, state: State) -> str:
        """Give the words that one agent and page are asked with."""
        items = page.items[agent]
        shown = "\n".join(f"{n + 1}. {self.titles[i]}" for n, i in enumerate(items[items >= 0].tolist()))
        agents = self.rules.agents
        return (
            f"You browse a catalogue. {ATTITUDE.get(state.arm, '')}\n"
            f"Activity: {LEVELS[state.activity[agent]]}. Appetite for variety: {LEVELS[state.diversity[agent]]}. "
            f"You go with the crowd: {LEVELS[4 - agents.conformity[agent]]}.\nYou like: {self.likes[agent]}\n"
            f"Page {page.number}:\n{shown}\n"
            'Answer with JSON alone: {"take": [numbers you would watch], "leave": true if you stop here}'
        )

    def _asked(self, prompt: str, n: int) -> tuple[list[int], bool] | None:
        key = hashlib.sha256(prompt.encode()).hexdigest()
        text = self._known(key)
        if text is not None:
            self.tally.cached += 1
            return parse_answer(text, n)
        for _ in range(2):
            if self.tally.characters >= self.budget:
                return None
            text = self.answer(prompt)
            self.tally.asked += 1
            self.tally.characters += len(prompt) + len(text)
            found = parse_answer(text, n)
            if found is not None:
                self._keep(key, text)
                return found
        self.tally.failed += 1
        return None

    def _known(self, key: str) -> str | None:
        if key not in self.known and self.cache is not None and (self.cache / f"{key}.json").is_file():
            self.known[key] = (self.cache / f"{key}.json").read_text("utf-8")
        return self.known.get(key)

    def _keep(self, key: str, text: str) -> None:
        self.known[key] = text
        if self.cache is not None:
            from habitus.core.atomic import new_file

            with new_file(self.cache / f"{key}.json") as beside:
                beside.write_text(text, "utf-8")


def parse_answer(text: str, n: int) -> tuple[list[int], bool] | None:
    """Read an answer to a page of n items; None when it is not exactly what was asked for. Places count from 0.

    >>> parse_answer('{"take": [1, 3], "leave": false}', 4), parse_answer('{"take": [9], "leave": false}', 4)
    (([0, 2], False), None)
    """
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or set(found) != {"take", "leave"} or not isinstance(found["leave"], bool):
        return None
    take = found["take"]
    if not isinstance(take, list) or not all(type(x) is int and 1 <= x <= n for x in take):
        return None
    return sorted({x - 1 for x in take}), found["leave"]


def folder_answers(folder: str | Path) -> Callable[[str], str]:
    """Answer from files HASH.json, where HASH is the SHA-256 of the prompt; what is missing is written to HASH.txt.

    So a run can be made in two steps without any network: the prompts are written, answered elsewhere, and read.
    """
    home = Path(folder)

    def answer(prompt: str) -> str:
        key = hashlib.sha256(prompt.encode()).hexdigest()
        if (home / f"{key}.json").is_file():
            return (home / f"{key}.json").read_text("utf-8")
        home.mkdir(parents=True, exist_ok=True)
        (home / f"{key}.txt").write_text(prompt, "utf-8")
        return ""

    return answer


def chat_answers(url: str, model: str, *, key: str = "", seconds: float = 60.0) -> Callable[[str], str]:
    """Ask an OpenAI-compatible endpoint, `URL/chat/completions`; an endpoint that fails gives an empty answer."""
    head = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def answer(prompt: str) -> str:
        body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
        request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), head)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as reply:
                return str(json.load(reply)["choices"][0]["message"]["content"])
        except (OSError, ValueError, KeyError, IndexError):
            return ""

    return answer
