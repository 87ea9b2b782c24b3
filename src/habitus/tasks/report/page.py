"""From the record to HTML: the first screen, the sections, the style, the drawings and plotly.js in one file."""

from __future__ import annotations

import json
from typing import Any

from habitus.tasks.report.ahead import forecast_section
from habitus.tasks.report.blocks import Plot, Row, Section
from habitus.tasks.report.canvas import PALETTE
from habitus.tasks.report.compared import gate_section, reliability_section
from habitus.tasks.report.first import first_screen
from habitus.tasks.report.first_ranking import ranking_first
from habitus.tasks.report.learnt import data_section, training_section
from habitus.tasks.report.lives import PROBE, lives_first, lives_section, lives_training_section, probe_section
from habitus.tasks.report.made import made_section
from habitus.tasks.report.ranked import ranking_section
from habitus.tasks.report.record import Record
from habitus.tasks.report.verdict import SYMBOL, WORD
from habitus.tasks.report.whatif import whatif_section
from habitus.tasks.report.words import day

PARTS = (
    data_section,
    training_section,
    gate_section,
    reliability_section,
    forecast_section,
    whatif_section,
    made_section,
)
LIFE_COMMANDS = ["habitus train RECIPE", PROBE, "habitus report RUN"]
LIFE_PARTS = (data_section, lives_training_section, lives_section, probe_section, made_section)
EVENT_PARTS = (data_section, training_section, ranking_section, made_section)


def render(record: Record) -> str:
    """Write the whole page as text. Every name from the run is escaped, in the text and in the drawings."""
    import plotly.offline
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("habitus.tasks", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    if record.lives:
        first, parts = lives_first(record), LIFE_PARTS
        record = record.model_copy(update={"commands": record.commands or LIFE_COMMANDS})
    elif record.ranking:
        first, parts = ranking_first(record), EVENT_PARTS
    else:
        first, parts = first_screen(record), PARTS
    made = [part(record) for part in parts]
    drawn = [*([first.glance] if first.glance else []), *_plots(made)]
    loader = environment.loader
    assert loader is not None
    style, script = (loader.get_source(environment, name)[0] for name in ("style.css", "draw.js"))
    page = environment.get_template("page.html.j2").render(
        record=record,
        created=day(record.created) if record.created else "",
        first=first,
        sections=made,
        palette=PALETTE,
        symbols=SYMBOL,
        verdict_words=WORD,
        style=style,
        script=script,
        drawings=_json({plot.key: plot.figure for plot in drawn}),
        colours=_json(dict(PALETTE.values())),
        plotly=plotly.offline.get_plotlyjs(),
    )
    return page.lstrip()


def _plots(made: list[Section]) -> list[Plot]:
    """List every plot of the page, those that stand in rows too."""
    blocks = [block for section in made for block in section.blocks]
    return [
        plot for block in blocks for plot in (block.plots if isinstance(block, Row) else [block]) if plot.kind == "plot"
    ]


def _json(value: Any) -> str:
    """Write JSON that can stand inside a script element: no tag can end it early."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
