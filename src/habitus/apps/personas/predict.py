"""Answer a file of threads, block by block: the chance of every action, one action, and a text where it carries one."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from habitus.apps.personas.combine import answered, posterior, tell
from habitus.apps.personas.features import rows_of_threads
from habitus.apps.personas.model import PersonaModel, load_model
from habitus.apps.personas.replies import TEXTED, Replies
from habitus.core.atomic import new_file
from habitus.core.errors import ConfigError, SourceError
from habitus.data.sources.persona_threads import read_threads

if TYPE_CHECKING:
    import polars as pl

Writer = Callable[[list[str], list[list[str]]], list[str]]  # posts and the replies found -> texts


@dataclass(frozen=True)
class Answered:
    """How many lines were read, answered and rejected (by reason), and the seconds it took."""

    n_read: int
    n_rows: int
    reasons: dict[str, int]
    seconds: float


def predict_personas(
    run: str | Path,
    threads: str | Path,
    out: str | Path,
    *,
    lines: str | Path | None = None,
    writer: Writer | None = None,
    cluster: int | None = None,
) -> Answered:
    """Write OUT (Parquet): thread_id, cluster, p_<action>, action, text, source, support; order of rows by content.

    Parameters
    ----------
    lines
        Also write the answers as JSON lines in the form of the challenge.
    writer
        Makes texts instead of the reply found; it gets posts and up to 5 replies found for each.
    cluster
        What if every thread were this persona's? A persona the model does not know is answered by the pooled parts.

    Labels in the file are not read. `source` says who told the action: `lookup` (the store alone) or `model`.
    Errors: `ArtifactError` for an unfinished run; `SourceError` without a usable line; `ConfigError` for a run on
    another source than threads.
    """
    import pyarrow.parquet as pq

    model = load_model(run)
    if model.recipe.source != "threads":
        raise ConfigError("a run on threads", f"source {model.recipe.source!r}", where=str(run))
    replies = Replies.open(model.designer.store, model.designer.encoder)
    reasons: Counter[str] = Counter()
    n_read, n_rows, began, sheet = 0, 0, time.perf_counter(), None
    with ExitStack() as stack:
        beside = stack.enter_context(new_file(out))
        said = stack.enter_context(stack.enter_context(new_file(lines)).open("w", encoding="utf-8")) if lines else None
        for block in read_threads(threads, is_labelled=False):
            n_read += block.n_read
            reasons.update(block.rejected["reason"].to_list())
            for some in block.rows.iter_slices(100_000):
                table = answer(model, replies, some, writer=writer, cluster=cluster)
                arrow = table.to_arrow()
                sheet = sheet or stack.enter_context(pq.ParquetWriter(beside, arrow.schema, compression="zstd"))
                sheet.write_table(arrow)
                n_rows += len(table)
                if said is not None:
                    rows = table.select("thread_id", "cluster", "action", "text").rows()
                    said.write("\n".join(map(_line, rows)) + "\n")
        if sheet is None:
            what = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common(3)) or "an empty file"
            raise SourceError("threads that can be answered", what, where=str(threads))
    model.designer.store.close()
    return Answered(n_read, n_rows, dict(reasons), time.perf_counter() - began)


def answer(
    model: PersonaModel,
    replies: Replies,
    table: pl.DataFrame,
    *,
    writer: Writer | None = None,
    cluster: int | None = None,
) -> pl.DataFrame:
    """Answer prepared rows. The answer to a row does not depend on the rows beside it."""
    import polars as pl

    if cluster is not None:
        table = table.with_columns(cluster=pl.lit(cluster, pl.Int32))
    rows, labels = rows_of_threads(table), model.recipe.labels
    design = model.designer.design(rows)
    parts = model.parts(rows, design)
    p = posterior(parts, model.mix)
    told, (direct, _) = tell(parts, model.mix, p), answered(parts, model.mix)
    texted = np.flatnonzero(np.isin(told, [labels.index(name) for name in TEXTED if name in labels]))
    texts = np.full(len(rows), "", dtype=object)
    texts[texted] = _texts(
        replies, design.vectors[texted], rows.cluster[texted], table["post_text"].gather(texted), writer
    )
    actions = pl.Series(labels).gather(told)
    columns: dict[str, Any] = {"thread_id": rows.ids, "cluster": rows.cluster}
    columns |= {f"p_{name}": p[:, i].astype(np.float32) for i, name in enumerate(labels)}
    columns |= {"action": actions, "text": pl.Series(texts.tolist(), dtype=pl.String)}
    columns |= {"source": pl.Series(["model", "lookup"]).gather(direct.astype(int))}
    return pl.DataFrame(columns | {"support": parts.own.sum(axis=1).astype(np.int32)})


def _texts(
    replies: Replies, vectors: np.ndarray, cluster: np.ndarray, posts: pl.Series, writer: Writer | None
) -> list[str]:
    if writer is None or not len(cluster):
        return replies.write(vectors, cluster)
    places = replies.nearest(vectors, cluster, 5)
    shown = [[replies.text[int(place)] for place in row if place >= 0] for row in places]
    return writer(posts.to_list(), shown)


def _line(row: tuple[Any, ...]) -> str:
    name, cluster, action, text = row
    answer = {"id": name, "cluster_id": cluster, "actions": {action: True}}
    return json.dumps(answer | ({"text": text} if action in TEXTED else {}), ensure_ascii=False)
