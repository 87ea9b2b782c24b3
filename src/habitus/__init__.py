"""habitus: models of user behaviour, from a raw log to a forecast.

What will each user do next, and how would a known coming event change it? Every verb is a function here, a command of
the same name, and a page of the guide:

    store = habitus.ingest("online_retail", "shop.store")
    run = habitus.train("recipes/online_retail_lumos.toml", store="shop.store")
    habitus.evaluate(run), habitus.predict(run, ...), habitus.whatif(run, ...), habitus.report(run)

Names load on first use, so `import habitus` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers: the same names as in _HOMES
    from habitus.core.errors import HabitusError
    from habitus.data.calendar import Calendar
    from habitus.data.cutoffs import Cutoffs
    from habitus.data.log import EventLog
    from habitus.data.schema import Schema
    from habitus.data.sources.simulator import World
    from habitus.data.store import Store
    from habitus.data.targets import Target
    from habitus.models.lumos import Lumos, LumosConfig
    from habitus.tasks.embed import embed
    from habitus.tasks.erase import erase
    from habitus.tasks.evaluate import evaluate
    from habitus.tasks.generate import generate
    from habitus.tasks.ingest import append, ingest
    from habitus.tasks.lurm_encoder import LurmEncoder
    from habitus.tasks.predict import predict
    from habitus.tasks.probe import probe
    from habitus.tasks.recipe import Recipe
    from habitus.tasks.report import report
    from habitus.tasks.scale import scale
    from habitus.tasks.similar import similar
    from habitus.tasks.train import train
    from habitus.tasks.whatif import whatif

__version__ = "0.1.0"

_HOMES = {
    "Calendar": "habitus.data.calendar",
    "Cutoffs": "habitus.data.cutoffs",
    "EventLog": "habitus.data.log",
    "HabitusError": "habitus.core.errors",
    "Lumos": "habitus.models.lumos",
    "LumosConfig": "habitus.models.lumos",
    "LurmEncoder": "habitus.tasks.lurm_encoder",
    "Recipe": "habitus.tasks.recipe",
    "Schema": "habitus.data.schema",
    "Store": "habitus.data.store",
    "Target": "habitus.data.targets",
    "World": "habitus.data.sources.simulator",
    "append": "habitus.tasks.ingest",
    "embed": "habitus.tasks.embed",
    "erase": "habitus.tasks.erase",
    "evaluate": "habitus.tasks.evaluate",
    "generate": "habitus.tasks.generate",
    "ingest": "habitus.tasks.ingest",
    "predict": "habitus.tasks.predict",
    "probe": "habitus.tasks.probe",
    "report": "habitus.tasks.report",
    "scale": "habitus.tasks.scale",
    "similar": "habitus.tasks.similar",
    "train": "habitus.tasks.train",
    "whatif": "habitus.tasks.whatif",
}

__all__ = [
    "Calendar",
    "Cutoffs",
    "EventLog",
    "HabitusError",
    "Lumos",
    "LumosConfig",
    "LurmEncoder",
    "Recipe",
    "Schema",
    "Store",
    "Target",
    "World",
    "__version__",
    "append",
    "embed",
    "erase",
    "evaluate",
    "generate",
    "ingest",
    "predict",
    "probe",
    "report",
    "scale",
    "similar",
    "train",
    "whatif",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'habitus' has no attribute {name!r}; there are: {', '.join(_HOMES)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
