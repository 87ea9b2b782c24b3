"""The peer's side of `benchmarks.rectools`: run by the Python of its own environment, one JSON request in, one out.

python _rectools_peer.py REQUEST.json ANSWER.json
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

warnings.filterwarnings("ignore")


def main(request_path: str, answer_path: str) -> None:
    """Train for some steps or epochs, then recommend; write speeds, and the recommendations as Parquet."""
    import pandas as pd
    import pytorch_lightning as pl
    import torch
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    request = json.loads(Path(request_path).read_text("utf-8"))
    torch.set_num_threads(request["n_threads"])
    pl.seed_everything(0, verbose=False)

    watch = SimpleNamespace(n_targets=0, n_places=0, began=0.0, seconds=0.0)  # the peer copies its trainer

    class Watch(pl.Callback):
        """Counts next-item targets and the time of steps after the first ones."""

        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            if trainer.global_step == request["n_warm"]:
                watch.n_targets, watch.n_places, watch.began = 0, 0, time.perf_counter()

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
            watch.n_targets += int((batch["y"] != 0).sum())
            watch.n_places += batch["y"].numel()
            watch.seconds = time.perf_counter() - watch.began

    def trainer() -> pl.Trainer:
        limit = {"max_steps": request["n_steps"]} if request["n_steps"] else {"max_epochs": request["n_epochs"]}
        return pl.Trainer(
            **limit, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[Watch()],
        )  # fmt: skip

    model = SASRecModel(**request["model"], get_trainer_func=trainer, recommend_torch_device="cpu")
    events = pd.read_parquet(request["events"])
    events[Columns.Weight] = 1.0
    events[Columns.Datetime] = pd.Timestamp("2000-01-01") + pd.to_timedelta(events.pop("position"), unit="s")
    train = events[events["back"] > 1].drop(columns="back")
    past = events[events["back"] > 0].drop(columns="back")
    model.fit(Dataset.construct(train))
    began = time.perf_counter()
    users = past[Columns.User].unique()
    found = model.recommend(users, Dataset.construct(past), k=10, filter_viewed=True, on_unsupported_targets="ignore")
    seconds = time.perf_counter() - began
    found.to_parquet(request["out"])
    answer = {
        "targets_per_second": watch.n_targets / watch.seconds,
        "padding": 1 - watch.n_targets / watch.n_places,
        "users_per_second": found[Columns.User].nunique() / seconds,
    }
    Path(answer_path).write_text(json.dumps(answer), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
