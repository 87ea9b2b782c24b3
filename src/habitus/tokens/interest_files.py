"""Interests on disk: `interests.json` for the words, `interests.npz` for the arrays. Nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from habitus.core.atomic import write_json
from habitus.core.errors import ArtifactError, FingerprintError
from habitus.tokens.codebook import Codebook
from habitus.tokens.interest_fit import frozen_arrays, version_of
from habitus.tokens.interests import Interests
from habitus.tokens.item_content import ContentEncoder, ContentSpec

FORMAT = 1
WORDS, ARRAYS = "interests.json", "interests.npz"
PLAIN = ("version", "n", "block", "way", "amount", "digits", "until", "week_starts", "n_users", "figures")


def write_files(interests: Interests, folder: Path) -> None:
    """Write both files into a folder."""
    write_pair(interests, folder)


def read_files(folder: Path) -> Interests:
    """Read both files of a folder. Errors as in `read_pair`."""
    return read_pair(folder / WORDS, folder / ARRAYS)


def write_pair(interests: Interests, folder: Path) -> dict[str, Path]:
    """Write both files; give their paths as `words` and `arrays`. Equal interests give equal bytes."""
    words: dict[str, Any] = {"format": FORMAT} | {name: getattr(interests, name) for name in PLAIN}
    for name in ("item_ids", "names", "groups", "fields", "values"):
        words[name] = getattr(interests, name)
    if interests.content is not None:
        spec = interests.content.spec
        words["content"] = {
            "categories": spec.categories, "titles": spec.titles, "edges": spec.edges, "n_buckets": spec.n_buckets,
        }  # fmt: skip
    write_json(folder / WORDS, words)
    with (folder / ARRAYS).open("wb") as file:
        np.savez(file, of_item=interests.of_item, idf=interests.idf, **frozen_arrays(interests))  # pyright: ignore
    return {"words": folder / WORDS, "arrays": folder / ARRAYS}


def read_pair(words_file: Path, arrays_file: Path) -> Interests:
    """Read both files. Errors: `ArtifactError`; `FingerprintError` when the content does not give the version."""
    where = str(words_file)
    try:
        words = json.loads(words_file.read_text("utf-8"))
        if words["format"] != FORMAT:
            raise ArtifactError(f"interests of format {FORMAT}", str(words["format"]), where=where)
        with np.load(arrays_file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        found = _built(words, arrays)
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise ArtifactError("a file of interests", str(cause)[:300], where=where, fix="fit again") from cause
    if version_of(found) != found.version:
        raise FingerprintError(
            f"interests of version {found.version}", f"content of version {version_of(found)}", where=where,
            fix="fit again: a file was changed",
        )  # fmt: skip
    return found


def _built(words: dict[str, Any], arrays: dict[str, np.ndarray]) -> Interests:
    book = content = None
    if "centres" in arrays:
        book = Codebook(arrays["centres"], arrays.get("coarse"), arrays.get("coarse_offsets"))
    if "content" in words:
        kept = words["content"]
        categories = {name: tuple(values) for name, values in kept["categories"].items()}
        edges = {name: tuple(inner) for name, inner in kept["edges"].items()}
        spec = ContentSpec(categories, tuple(kept["titles"]), edges, kept["n_buckets"])
        tables = {name.removeprefix("table."): array for name, array in arrays.items() if name.startswith("table.")}
        content = ContentEncoder(spec, tables, arrays["word"], arrays["weight"], arrays["bias"])
    return Interests(
        **{name: words[name] for name in PLAIN},
        of_item=arrays["of_item"],
        idf=arrays["idf"],
        item_ids=tuple(words["item_ids"]),
        names=tuple(words["names"]),
        groups=tuple(tuple(group) for group in words["groups"]),
        fields=tuple(words["fields"]),
        values=tuple(words["values"]),
        codebook=book,
        content=content,
    )
