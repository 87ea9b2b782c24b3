"""Importing costs nothing and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = [
    "torch", "lightning", "pytorch_lightning", "torchmetrics", "sklearn", "lightgbm", "plotly", "polars", "duckdb",
    "pyarrow", "pandas", "scipy", "numpy", "transformers", "holidays", "jinja2", "rich",
]  # fmt: skip

HELP = """
from habitus.cli.main import app
try:
    app(["{verb}--help"] if not "{verb}" else ["{verb}", "--help"])
except SystemExit as stop:
    assert stop.code in (0, None), stop.code
"""

SIDE_EFFECTS = """
import importlib, json, logging, os, pkgutil, random, signal, sys, warnings

import lightgbm, lightning, numpy, plotly, polars, sklearn, torch  # what these do to the process is theirs, not ours

def state():
    return {
        "root handlers": [str(handler) for handler in logging.getLogger().handlers],
        "root level": logging.getLogger().level,
        "loggers": {name: logging.getLogger(name).level for name in ("lightning", "lightning.pytorch", "torch")},
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "random": hash(random.getstate()),
        "numpy": hash(str(numpy.random.get_state())),
        "torch seed": torch.initial_seed(),
        "torch state": hash(torch.get_rng_state().numpy().tobytes()),
        "dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "device": str(torch.get_default_device()),
        "numpy errors": numpy.geterr(),
        "interrupt": str(signal.getsignal(signal.SIGINT)),
        "hook": str(sys.excepthook),
    }

before = state()
import habitus
names = [m.name for m in pkgutil.walk_packages(habitus.__path__, "habitus.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
after = state()
print(json.dumps({"names": names, "changed": [k for k in before if before[k] != after[k]]}))
"""


def run(code: str) -> str:
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def loaded(code: str) -> list[str]:
    """Which heavy packages a fresh interpreter has after `code`."""
    tail = f"\nimport sys, json\nprint('\\n' + json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    return json.loads(run(code + tail).splitlines()[-1])


def test_importing_habitus_loads_nothing_heavy():
    assert loaded("import habitus\nassert dir(habitus)") == []


@pytest.mark.parametrize("verb", ["", "ingest", "train", "report"])
def test_help_loads_nothing_heavy(verb: str):
    assert loaded(HELP.format(verb=verb)) == []


def test_errors_and_words_are_light():
    assert loaded("from habitus import HabitusError") == []


def test_importing_every_module_changes_nothing():
    answer = json.loads(run(SIDE_EFFECTS).splitlines()[-1])
    assert len(answer["names"]) > 30
    assert answer["changed"] == []
