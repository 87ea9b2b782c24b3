"""The command generate on a trained run: same seed, same futures; errors that a person can act on."""

from __future__ import annotations

import json

import polars as pl
import pytest
from typer.testing import CliRunner

from habitus.cli.main import app
from habitus.tasks.train import train
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]

RECIPE = """
name = "futures"
store = "{store}"
model = {{ name = "behavegpt", size = "tiny", n_blocks = 1, form = "{form}" }}
objective = {{ name = "{objective}" }}
tokens = {{ length = 16 }}
training = {{ epochs = 1, loggers = ["csv"] }}
[split]
protocol = "time"
train_until = 2020-03-10
valid = [2020-03-11, 2020-03-31]
test = [2020-04-01, 2020-04-20]
"""


def generate(run, *words: str):
    return CliRunner().invoke(app, ["generate", str(run), *words])


@pytest.mark.parametrize(("form", "objective"), [("joint", "joint"), ("paper", "next_event")])
def test_a_trained_run_generates_or_says_why_not(make_store, shop, tmp_path, form, objective):
    store = make_store(shop)
    path = tmp_path / "futures.toml"
    path.write_text(RECIPE.format(store=store.path, form=form, objective=objective))
    run = train(path, out=tmp_path / "run").path
    out = [str(tmp_path / f"{name}.parquet") for name in ("one", "two")]
    if form == "paper":
        answer = generate(run, "--out", out[0])
        assert answer.exit_code == 1
        assert "form = 'joint'" in answer.stderr
        return
    words = ("--days", "5", "--samples", "2", "--cutoff", "2020-03-31", "--max-events", "200")
    rules = tmp_path / "rules.toml"
    rules.write_text("closed_hours = [0, 1, 2, 3, 4, 5, 6]\n")
    answer = generate(run, *words, "--out", out[0], "--constraints", str(rules))
    assert answer.exit_code == 0, answer.stderr
    assert "constraints took" in answer.stdout
    (tmp_path / "some.csv").write_text("user\n" + "\n".join(store.users["user"].cast(str).head(4)) + "\n")
    again = generate(run, *words, "--out", out[1], "--constraints", str(rules), "--users", str(tmp_path / "some.csv"))
    assert again.exit_code == 0, again.stderr
    whole, some = (pl.read_parquet(path) for path in out)
    assert whole.height > 30
    assert whole["time"].dt.hour().min() >= 7
    assert some.equals(whole.filter(pl.col("user").is_in(store.users["user"].head(4).implode())))
    assert json.loads((tmp_path / "one.manifest.json").read_text())["store_fingerprint"] == store.fingerprint
    assert "FIELD=NUMBER" in generate(run, "--out", str(tmp_path / "x.parquet"), "--top-p", "type").stderr
