"""The page of a study: one self-contained HTML file, drawn by the app, framed and written here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from habitus.core.atomic import new_file
from habitus.core.errors import ArtifactError

STYLE = """
:root{--ink:#1c2530;--soft:#5b6775;--line:#d9dfe6;--model:#1f6f8b;--top:#b4572a;--third:#3d7d4f;--ground:#fff;
--fill:#eef3f6;--heat:31,111,139}
@media(prefers-color-scheme:dark){:root{
--ink:#e8edf2;--soft:#9aa7b5;--line:#36424f;--model:#6cc0da;--top:#e59a6f;--third:#7fc796;--ground:#141a20;
--fill:#1f2933;--heat:108,192,218}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:24px 16px 64px;font:16px/1.5 system-ui,sans-serif;
color:var(--ink);background:var(--ground)}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 4px}h2{font-size:1.15rem;margin:36px 0 8px}p,li{max-width:72ch}
.soft{color:var(--soft)}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;min-width:100%}
th,td{padding:6px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{font-weight:600;color:var(--soft)}
svg{width:100%;min-width:600px;height:auto;display:block}
text{fill:var(--ink);font:13px system-ui,sans-serif}.low{fill:var(--soft)}
"""


def framed(title: str, parts: Iterable[str], style: str = "") -> str:
    """Give the page as text: `parts` are HTML already, empty ones are left out; `style` adds to the common one.

    >>> framed("a & b", ["<p>so</p>", ""]).endswith("<body><p>so</p></body></html>\\n")
    True
    """
    body = "\n".join(part for part in parts if part)
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(title)}</title>"
        f"<meta name=viewport content='width=device-width,initial-scale=1'><style>{STYLE}{style}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def write_page(text: str, run: Path, out: str | Path | None = None) -> Path:
    """Write a page to RUN/report.html, or to `out`, atomically."""
    path = Path(out) if out is not None else run / "report.html"
    with new_file(path) as beside:
        beside.write_text(text, "utf-8")
    return path


def read_figures(run: Path, verb: str) -> dict[str, Any]:
    """Read RUN/metrics.json. Errors: `ArtifactError`, which names the verb that makes it (`ctr evaluate`)."""
    try:
        return json.loads((run / "metrics.json").read_text("utf-8"))
    except (OSError, ValueError) as cause:
        raise ArtifactError("RUN/metrics.json", str(cause), where=str(run), fix=f"habitus {verb} {run}") from None
