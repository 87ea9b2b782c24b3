"""The optional generator: a causal language model in a folder, or an endpoint that speaks the OpenAI form.

A writer is `complete(messages) -> text`. One that fails says so in `Failure`; the case stays in the count, as a miss.
The key of an endpoint comes from the environment, is sent and goes nowhere else: not to logs, errors, caches or files.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from habitus.apps.advisor.prompt import joined
from habitus.core.atomic import new_file
from habitus.core.config import Config
from habitus.core.errors import ArtifactError, ConfigError, require

Messages = list[dict[str, str]]


class Writer(Protocol):
    """Anything that answers messages with text."""

    def complete(self, messages: Messages) -> str: ...


class Failure(Exception):
    """A writer gave no answer; the text says why, without headers or keys."""


class EndpointConfig(Config):
    """Where and how to ask. `HABITUS_LLM_BASE_URL`, `HABITUS_LLM_MODEL` and `HABITUS_LLM_API_KEY` are read once.

    >>> EndpointConfig(base_url="http://localhost:1", model="m").retries
    2
    """

    base_url: str
    model: str
    timeout: float = Field(60, gt=0)
    retries: int = Field(2, ge=0)
    wait: float = Field(1.0, ge=0)
    max_tokens: int = Field(512, gt=0)


@dataclass
class Endpoint:
    """An OpenAI-compatible chat endpoint. Temperature 0; answers are kept in `cache` by a hash of model and messages.

    Errors: `Failure` after the last retry, for a refused connection, a status other than 200, an answer without text.
    """

    config: EndpointConfig
    cache: Path | None = None
    _key: str = field(default="", repr=False)

    def complete(self, messages: Messages) -> str:
        body = {
            "model": self.config.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self.config.max_tokens,
        }
        sent = json.dumps(body, sort_keys=True).encode()
        kept = self.cache / f"{hashlib.sha256(sent).hexdigest()}.txt" if self.cache else None
        if kept is not None and kept.is_file():
            return kept.read_text("utf-8")
        text = self._asked(sent)
        if kept is not None:
            with new_file(kept) as beside:
                beside.write_text(text, "utf-8")
        return text

    def _asked(self, sent: bytes) -> str:
        why = ""
        for turn in range(self.config.retries + 1):
            if turn:
                time.sleep(self.config.wait * 2 ** (turn - 1))
            try:
                return self._once(sent)
            except urllib.error.HTTPError as cause:
                why = f"status {cause.code}"
                cause.close()
                if cause.code in (400, 401, 403, 404):
                    break
            except (urllib.error.URLError, TimeoutError, ConnectionError) as cause:
                why = type(getattr(cause, "reason", cause)).__name__
            except (ValueError, KeyError, IndexError, TypeError):
                why = "an answer without choices[0].message.content"
        raise Failure(f"the endpoint gave no answer: {why}")

    def _once(self, sent: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        address = self.config.base_url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(address, sent, headers)
        with urllib.request.urlopen(request, timeout=self.config.timeout) as answer:
            text = json.loads(answer.read())["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            raise ValueError
        return text


def endpoint_from_environment(cache: Path | None = None, **more: Any) -> Endpoint:
    """Make an endpoint from HABITUS_LLM_BASE_URL, HABITUS_LLM_MODEL and, optionally, HABITUS_LLM_API_KEY.

    Errors: `ConfigError` when address or model is missing, or the address is not http(s).
    """
    names = {"base_url": "HABITUS_LLM_BASE_URL", "model": "HABITUS_LLM_MODEL"}
    values = {key: os.environ.get(name, "") for key, name in names.items()}
    for key, value in values.items():
        if not value:
            raise ConfigError(f"the environment variable {names[key]}", "nothing", where="--llm endpoint")
    if not values["base_url"].startswith(("http://", "https://")):
        raise ConfigError("an address that begins with http:// or https://", "another", where=names["base_url"])
    config = EndpointConfig.parse(values | more, where="endpoint")
    return Endpoint(config, cache, os.environ.get("HABITUS_LLM_API_KEY", ""))


@dataclass
class LocalModel:
    """A Hugging Face causal model in a folder, and adapters in another. Greedy; needs the extra [llm].

    Errors: `ArtifactError` when the folder holds no such model, `ExtraError` without transformers.
    """

    folder: Path
    adapters: Path | None = None
    max_tokens: int = 512
    _loaded: Any = field(default=None, init=False, repr=False)

    def complete(self, messages: Messages) -> str:
        import torch

        tokenizer, model = self.load()
        ids = torch.tensor([encoded(tokenizer, messages)])
        with torch.inference_mode():
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.max_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            )
        return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)

    def load(self) -> tuple[Any, Any]:
        """Give tokenizer and model, loaded once. Nothing is fetched, and no code of the folder is run."""
        if self._loaded is None:
            transformers: Any = require("transformers", "llm")
            if not (self.folder / "config.json").is_file():
                raise ArtifactError("config.json of a causal language model", "none", where=str(self.folder))
            options = {"local_files_only": True, "trust_remote_code": False}
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, **options)
                model = transformers.AutoModelForCausalLM.from_pretrained(self.folder, use_safetensors=True, **options)
            except (OSError, ValueError, KeyError) as cause:
                raise ArtifactError("a causal language model", str(cause)[:300], where=str(self.folder)) from None
            if self.adapters is not None:
                peft: Any = require("peft", "llm")
                model = peft.PeftModel.from_pretrained(model, str(self.adapters))
            self._loaded = tokenizer, model.eval()
        return self._loaded


def writer_of(llm: str | None, adapters: Path | None = None) -> Writer | None:
    """Give the writer that `--llm` names: None for the ranker, `endpoint`, or a folder."""
    if llm is None:
        return None
    return endpoint_from_environment() if llm == "endpoint" else LocalModel(Path(llm), adapters)


def encoded(tokenizer: Any, messages: Messages) -> list[int]:
    """Give the ids of a prompt: the model's chat form, joined into one user message where it knows no system role.

    A tokenizer without a chat form gets the plain text.
    """
    if not getattr(tokenizer, "chat_template", None):
        return list(tokenizer(joined(messages)[0]["content"] + "\n")["input_ids"])
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception:  # a template's own complaint: jinja's, of any kind
        text = tokenizer.apply_chat_template(joined(messages), tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def answered(writer: Writer, messages: Messages, say: Callable[[str], Any] | None = None) -> str | None:
    """Give the text, or None when the writer failed: the caller counts a miss."""
    try:
        return writer.complete(messages)
    except Failure as cause:
        if say is not None:
            say(str(cause))
        return None
