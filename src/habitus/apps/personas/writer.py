"""An optional writer of replies: a service that speaks the OpenAI protocol, or a causal language model in a folder.

    HABITUS_LLM_BASE_URL  HABITUS_LLM_MODEL  HABITUS_LLM_API_KEY (optional; never written down or logged)

Answers are kept by the hash of their prompt, so the same question costs once.
"""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from habitus.core.errors import ConfigError, SourceError, require

_TIMEOUT, _MOST_TOKENS = 60, 60


def prompt(post: str, shown: list[str]) -> str:
    """Give what the writer is asked: how this persona replied to like posts, and the post."""
    before = "\n".join(f"- {text}" for text in shown) or "- (none known)"
    return (
        "People of one kind replied to posts like this one with:\n"
        f"{before}\n\nWrite one reply of theirs to the post below, in their language and tone. "
        f"Give the reply only.\n\n{post}"
    )


class EndpointWriter:
    """Asks a service at the address in the environment. Errors: `ConfigError` without one, `SourceError` on failure."""

    def __init__(self, cache: str | Path, environment: Mapping[str, str] | None = None) -> None:
        names = os.environ if environment is None else environment
        self.url, self.model = names.get("HABITUS_LLM_BASE_URL", ""), names.get("HABITUS_LLM_MODEL", "")
        self._key = names.get("HABITUS_LLM_API_KEY", "")
        if not self.url or not self.model:
            raise ConfigError(
                "HABITUS_LLM_BASE_URL and HABITUS_LLM_MODEL",
                "not set",
                where="environment",
                fix="set both, or leave out the writer",
            )
        self.cache = Path(cache)

    def __call__(self, posts: list[str], shown: list[list[str]]) -> list[str]:
        return [self._one(prompt(post, before)) for post, before in zip(posts, shown)]

    def _one(self, text: str) -> str:
        path = self.cache / (hashlib.sha256(f"{self.model}\x1f{text}".encode()).hexdigest()[:32] + ".json")
        if path.is_file():
            return json.loads(path.read_text("utf-8"))["text"]
        found = self._ask(text)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": found}, ensure_ascii=False), "utf-8")
        return found

    def _ask(self, text: str) -> str:
        body = {"model": self.model, "max_tokens": _MOST_TOKENS, "messages": [{"role": "user", "content": text}]}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
                return json.loads(response.read())["choices"][0]["message"]["content"].strip()
        except (OSError, ValueError, KeyError, IndexError, urllib.error.URLError) as cause:
            raise SourceError("an answer of the language model", str(cause), where=self.url) from None


class FolderWriter:
    """Writes with a causal language model in a folder (extra [llm]), greedily, on the CPU."""

    def __init__(self, folder: str | Path) -> None:
        transformers: Any = require("transformers", "llm")
        if not Path(folder).is_dir():
            raise ConfigError("a folder with a causal language model", "no such folder", where=str(folder))
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        self.model = transformers.AutoModelForCausalLM.from_pretrained(str(folder)).eval()

    def __call__(self, posts: list[str], shown: list[list[str]]) -> list[str]:
        found = []
        for post, before in zip(posts, shown):
            tokens = self.tokenizer(prompt(post, before), return_tensors="pt", truncation=True, max_length=512)
            made = self.model.generate(**tokens, max_new_tokens=_MOST_TOKENS, do_sample=False)
            found.append(
                self.tokenizer.decode(made[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True).strip()
            )
        return found
