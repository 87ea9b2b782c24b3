"""A trained model of events (SASRec, GRU4Rec) as the gate and the slots read it: a state per row, a vector per item."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from habitus.apps.ilora.rows import Rows
from habitus.core.errors import ArtifactError, ConfigError
from habitus.models.artifact import load_artifact
from habitus.tokens.batch import EventBatch
from habitus.tokens.events import FIRST, UNKNOWN, EventSpec

_ROWS = 512


@dataclass(frozen=True)
class ItemStates:
    """One member of an artifact, and where each item of the sequences stands in its table.

    `row` int64 [n_items]: the table row of an item number, 1 (unknown) where training never showed it.
    """

    model: Any
    spec: EventSpec
    row: np.ndarray
    fingerprint: str

    @classmethod
    def open(cls, path: str | Path, items: tuple[str, ...], *, member: int = 0) -> ItemStates:
        """Open RUN or RUN/artifact of a model of items, trained on the sequences that `habitus ilora prepare` wrote.

        Errors: `ArtifactError` for another kind of model; `ConfigError` for a member it has not.
        """
        folder = Path(path)
        artifact = load_artifact(folder / "artifact" if (folder / "artifact").is_dir() else folder)
        if artifact.name not in ("sasrec", "gru4rec"):
            raise ArtifactError("a model of items: sasrec or gru4rec", artifact.name, where=str(folder))
        if not 0 <= member < len(artifact.members):
            raise ConfigError(f"a member below {len(artifact.members)}", str(member), where=str(folder))
        spec = EventSpec.from_json(artifact.spec)
        files = artifact.manifest["files"]
        text = json.dumps([artifact.fingerprint, member, files[f"weights-{member}.safetensors"], files["config.json"]])
        row = spec.lookup("item", items)[:-1].astype(np.int64)
        return cls(artifact.members[member].eval(), spec, row, hashlib.sha256(text.encode()).hexdigest())

    @property
    def d(self) -> int:
        """Width of a state and of an item's vector."""
        return self.model.table.shape[1]

    @property
    def is_known(self) -> np.ndarray:
        """Which items training showed, bool [n_items]."""
        return self.row >= FIRST

    @torch.no_grad()
    def vectors(self) -> Tensor:
        """The vector of every item, [n_items, d]; zeros for items it never saw."""
        return torch.where(torch.from_numpy(self.is_known)[:, None], self.model.table[torch.from_numpy(self.row)], 0.0)

    @torch.no_grad()
    def states(self, rows: Rows) -> Tensor:
        """The state after the past of every row, [n, d]: of at most as many items as the model was trained on."""
        made = [self._states(rows.take(np.arange(i, min(i + _ROWS, len(rows))))) for i in range(0, len(rows), _ROWS)]
        return torch.cat(made) if made else torch.zeros(0, self.d)

    def _states(self, rows: Rows) -> Tensor:
        past = rows.history(self.spec.length)
        length = np.maximum((past >= 0).sum(axis=1), 1)
        place = np.minimum(np.arange(past.shape[1])[None] + past.shape[1] - length[:, None], past.shape[1] - 1)
        items = np.take_along_axis(past, place, axis=1)
        ids = np.where(items >= 0, self.row[np.maximum(items, 0)], UNKNOWN)
        ids = np.where(np.arange(past.shape[1]) < length[:, None], ids, 0)[:, : int(length.max())]
        batch = EventBatch.empty(n_fields=len(self.spec.fields))
        whole = torch.zeros(*ids.shape, len(self.spec.fields), dtype=torch.int64)
        whole[..., self.spec.column("item")] = torch.from_numpy(ids)
        values = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
        return self.model.embed(EventBatch(**values | {"ids": whole, "length": torch.from_numpy(length)}))

    @torch.no_grad()
    def scores(self, rows: Rows, items: np.ndarray) -> np.ndarray:
        """Logits of chosen items after the past of every row, float32 [n, C]; the lowest for items it never saw."""
        state, table = self.states(rows), self.vectors()
        found = torch.einsum("nd,ncd->nc", self.model.query(state, "item"), table[torch.from_numpy(items).long()])
        return np.where(self.is_known[items], found.numpy(), np.finfo(np.float32).min)
