"""Take the picture of a report that the README shows.

    python docs/make_screenshot.py demo/run --out docs/images/report.png

Needs playwright (extra [dev]) and a Chromium: the system's, or the one of `playwright install chromium`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
PATIENCE = 120_000  # milliseconds: a busy machine draws slowly
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """Give the path of a Chromium, or None when there is none."""
    from playwright.sync_api import sync_playwright

    for name in NAMES:
        if found := shutil.which(name):
            return found
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


@contextmanager
def browser(executable: str) -> Iterator[Any]:
    """Start a headless Chromium that asks nothing of the network, and end it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        try:
            yield started
        finally:
            started.close()


def screenshot(
    report: Path,
    out: Path,
    executable: str,
    *,
    width: int = 1280,
    height: int = 900,
    scheme: Literal["light", "dark"] = "light",
    is_full: bool = False,
) -> Path:
    """Draw report.html in a window of this size and write its first screen, or with `is_full` all of it, as PNG."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with browser(executable) as started:
        page = started.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.set_default_timeout(PATIENCE)
        page.goto(report.resolve().as_uri())
        page.wait_for_selector("html[data-drawn=yes]", state="attached")
        page.screenshot(path=str(out), full_page=is_full)
    return out


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 0 when the picture was written."""
    parser = argparse.ArgumentParser(description="Picture of a report's first screen.")
    parser.add_argument("report", type=Path, help="report.html, or a run folder: its report is then made anew")
    parser.add_argument("--out", type=Path, default=Path("docs/images/report.png"))
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--dark", action="store_true", help="as a reader with a dark scheme sees it")
    parser.add_argument("--full", action="store_true", help="the whole page, not only the first screen")
    given = parser.parse_args(arguments)
    executable = find_chromium()
    if executable is None:
        sys.stderr.write("no Chromium found: install it, or run `playwright install chromium`\n")
        return 1
    source = given.report
    if source.is_dir():
        from habitus.tasks.report import report

        source = report(source)
    scheme: Literal["light", "dark"] = "dark" if given.dark else "light"
    size = {"width": given.width, "height": given.height}
    written = screenshot(source, given.out, executable, **size, scheme=scheme, is_full=given.full)
    sys.stdout.write(f"wrote {written}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
