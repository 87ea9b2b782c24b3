"""The frame of the page: first the verdict, then what it stands on. Style and script are those of the run report."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from habitus.tasks.report.blocks import Plot, Section
from habitus.tasks.report.canvas import PALETTE

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { {% for name, pair in palette.items() %}--{{ name }}: {{ pair[0] }}; {% endfor %} }
@media screen and (prefers-color-scheme: dark) {
  :root { {% for name, pair in palette.items() %}--{{ name }}: {{ pair[1] }}; {% endfor %} } }
{{ style | safe }}
.say { border-left: 6px solid var(--muted); padding: 4px 0 4px 16px; }
.say.ship { border-color: var(--third); } .say.stop, .say.invalid { border-color: var(--other); }
.say.unclear { border-color: var(--fifth); }
.reasons { margin: 10px 0 0 22px; padding: 0; } .reasons li { margin-bottom: 4px; overflow-wrap: anywhere; }
.cards > section:first-child { order: 0 !important; }
td.off, .off { color: var(--other); font-weight: 650; }
</style>
</head>
<body>
<header>
  <p class="eyebrow">habitus experiment · {{ eyebrow }}</p>
  <div class="say {{ outcome }}"><h1>{{ verdict }}</h1>
  <ul class="reasons">{% for reason in reasons %}<li>{{ reason }}</li>{% endfor %}</ul></div>
  <div class="cards">
    {% for card in cards %}
    <section><h2>{{ card[0] }}</h2>
      <div class="answer"><p class="figure"><b>{{ card[1] }}</b> {{ card[2] }}</p>
     <p class="range">{{ card[3] }}</p></div>
      {% for line in card[4] %}<p class="small">{{ line }}</p>{% endfor %}
    </section>
    {% endfor %}
  </div>
</header>
<nav aria-label="Sections"><ol>
  {% for s in sections %}<li><a href="#{{ s.id }}">{{ s.title }}</a></li>{% endfor %}</ol></nav>
<main>
<noscript><p class="warning">The drawings need JavaScript; every figure also stands in the tables.</p></noscript>
{% macro table(t) %}
{% if t.folded %}<details><summary>{{ t.folded }}</summary>{% endif %}
<table class="{{ 'full stack' if t.head | length > 4 else 'stack' if t.is_stacked else '' }}">
  <caption>{{ t.caption }}</caption>
  <thead><tr>{% for h in t.head %}
    <th scope="col"{% if loop.index0 in t.numeric %} class="number"{% endif %}>{{ h }}</th>{% endfor %}</tr></thead>
  <tbody>{% for row in t.rows %}<tr>{% for cell in row %}
    {% if loop.first %}<th scope="row">{{ cell.text }}{% if cell.note %} <small>{{ cell.note }}</small>{% endif %}</th>
    {% else %}<td data-head="{{ t.head[loop.index0] }}"
      class="{{ 'number ' if loop.index0 in t.numeric else '' }}{{ cell.mark }}"
      ><span>{{ cell.text }}{% if cell.note %} <small>{{ cell.note }}</small>{% endif %}</span></td>
    {% endif %}
  {% endfor %}</tr>{% endfor %}</tbody>
</table>
{% if t.folded %}</details>{% endif %}
{% endmacro %}
{% for s in sections %}
<section id="{{ s.id }}" aria-labelledby="head-{{ s.id }}">
  <h2 id="head-{{ s.id }}">{{ s.title }}</h2>
  <p class="question">{{ s.question }}</p>
  {% for b in s.blocks %}
  {% if b.kind == "prose" %}<p{% if b.mark %} class="{{ b.mark }}"{% endif %}>{{ b.text }}</p>
  {% elif b.kind == "table" %}{{ table(b) }}
  {% elif b.kind == "plot" %}
  <figure role="group" aria-labelledby="title-{{ b.key }}">
    <p class="title" id="title-{{ b.key }}">{{ b.title }}</p>
    <div class="drawing" id="{{ b.key }}" role="img" aria-label="{{ b.alt }}" style="height: {{ b.height }}px"></div>
    {% if b.note %}<figcaption>{{ b.note }}</figcaption>{% endif %}
    {% if b.table %}{{ table(b.table) }}{% endif %}
  </figure>
  {% endif %}{% endfor %}
</section>
{% endfor %}
</main>
<footer><p>Made with habitus. This page is one file: it loads nothing and sends nothing.</p></footer>
<script>{{ plotly | safe }}</script>
<script type="application/json" id="drawings">{{ drawings | safe }}</script>
<script type="application/json" id="colours">{{ colours | safe }}</script>
<script>{{ script | safe }}</script>
</body>
</html>
"""


def render(sections: list[Section], **words: Any) -> str:
    """Write the page as text; every name is escaped, in the text and in the drawings."""
    import plotly.offline
    from jinja2 import Environment, StrictUndefined

    parts = files("habitus.tasks.report")
    plots = [block for section in sections for block in section.blocks if isinstance(block, Plot)]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_PAGE).render(
        sections=sections,
        palette=PALETTE,
        plotly=plotly.offline.get_plotlyjs(),
        style=(parts / "style.css").read_text("utf-8"),
        script=(parts / "draw.js").read_text("utf-8"),
        drawings=_json({plot.key: plot.figure for plot in plots}),
        colours=_json(dict(PALETTE.values())),
        **words,
    )


def _json(value: Any) -> str:
    """JSON that can stand inside a script element: no tag can end it early."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
