"""The report: one self-contained HTML page that says what was asked, what the answer is, and how sure it is.

habitus report RUN
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["report"]


def report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write RUN/report.html (or `out`) from RUN/metrics.json and give its path.

    The page needs no network and no other file. A part of metrics.json that is absent becomes a sentence that names
    the command which fills it. A recipe saved as RUN/recipe.toml is shown at the end. Nothing is computed anew here:
    the page shows what `evaluate` and `whatif` measured. An older page is replaced at once, never half-written.

    Errors: `ArtifactError` when metrics.json is absent or malformed; `DiskError` when the page cannot be written.

    >>> import tempfile
    >>> run = Path(tempfile.mkdtemp())
    >>> _ = (run / "metrics.json").write_text('{"format": 1, "name": "first try"}')
    >>> report(run).name
    'report.html'
    """
    from habitus.core.atomic import new_file
    from habitus.tasks.report.page import render
    from habitus.tasks.report.record import read_record

    run = Path(run)
    page = render(read_record(run))
    path = Path(out) if out is not None else run / "report.html"
    with new_file(path) as beside:
        beside.write_text(page, "utf-8")
    return path
