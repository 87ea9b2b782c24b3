"""The report as a reader sees it: opened in Chromium, wide and on a phone."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from habitus.tasks.report import report

ROOT = Path(__file__).parents[2]
FIXTURE = runpy.run_path(str(ROOT / "tests/unit/tasks/report_fixture.py"))
CAMERA = runpy.run_path(str(ROOT / "docs/make_screenshot.py"))
SIZES = {"desk": (1280, 900), "phone": (390, 844)}
HEADINGS = [
    "What was asked", "What the answer is", "How sure", "The data", "The training", "The comparison", "The chances",
    "The forecast day by day", "What if", "How this was made",
]  # fmt: skip

# Words that leave their drawing or lie on other words of it, and drawings without a visible mark.
LOOK = """() => [...document.querySelectorAll(".drawing")].map((place) => {
    const frame = place.getBoundingClientRect();
    const words = [...place.querySelectorAll("svg text")].filter((t) => t.textContent.trim())
        .map((t) => ({ text: t.textContent, box: t.getBoundingClientRect() })).filter((w) => w.box.width > 0);
    const out = words.filter((w) => w.box.left < frame.left - 1 || w.box.right > frame.right + 1
        || w.box.top < frame.top - 1 || w.box.bottom > frame.bottom + 1).map((w) => w.text);
    const clash = [];
    words.forEach((a, i) => words.slice(i + 1).forEach((b) => {
        const across = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
        const down = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
        if (across > 1 && down > 3) clash.push(a.text + " | " + b.text);
    }));
    const drawn = [...place.querySelectorAll(".scatterlayer path")].filter((p) => {
        const box = p.getBoundingClientRect();
        return box.width + box.height > 2;
    }).length;
    return { id: place.id, out, clash, drawn };
})"""
INK = "getComputedStyle(document.querySelector('#forest-0-0 .xtick text')).fill"
TOO_WIDE = """[...document.querySelectorAll(".drawing")].filter((place) =>
    place.querySelector("svg").getBoundingClientRect().right > place.getBoundingClientRect().right + 1)
    .map((place) => place.id)"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="playwright is not installed")
    executable = CAMERA["find_chromium"]()
    if executable is None:
        pytest.skip("no Chromium is installed")
    with CAMERA["browser"](executable) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of each kind of run."""
    folder = tmp_path_factory.mktemp("runs")
    made = {name: FIXTURE[name]() for name in ("online_retail", "awkward", "bare")}
    return {name: report(FIXTURE["write_run"](folder / name, metrics)) for name, metrics in made.items()}


def opened(chromium: Any, path: Path, size: str, scheme: str = "light") -> tuple[Any, list[str]]:
    """Open a page; list what a clean page must not do: complain, or ask for anything but itself."""
    width, height = SIZES[size]
    page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.set_default_timeout(CAMERA["PATIENCE"])
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    page.on("request", lambda asked: asked.url == path.as_uri() or troubles.append(f"request: {asked.url[:200]}"))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn=yes]", state="attached")
    return page, troubles


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("online_retail", "desk"),
        ("online_retail", "phone"),
        ("awkward", "desk"),
        ("awkward", "phone"),
        ("bare", "phone"),
    ],
)
def test_page_is_clean_and_whole(chromium: Any, pages: dict[str, Path], name: str, size: str):
    page, troubles = opened(chromium, pages[name], size)
    looks = page.evaluate(LOOK)
    assert len(looks) >= (10 if name != "bare" else 0)
    assert [look["id"] for look in looks if not look["drawn"]] == [], "an empty plot"
    assert {look["id"]: look["out"] for look in looks if look["out"]} == {}, "words cut off at the edge of a plot"
    assert {look["id"]: look["clash"] for look in looks if look["clash"]} == {}, "words on words"
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0, "the page scrolls sideways"
    for heading in HEADINGS:
        assert page.get_by_role("heading", name=heading, exact=True).is_visible(), heading
    if (name, size) == ("online_retail", "desk"):
        ends = page.evaluate(
            "[...document.querySelectorAll('.cards > section')].map(c => c.getBoundingClientRect().bottom)"
        )
        assert max(ends) <= SIZES[size][1], "asked, answer and how sure fit one screen"
    assert page.evaluate("window.hacked") is None, "a name was run as a program"
    assert troubles == []
    page.close()


def test_hover_says_the_figure(chromium: Any, pages: dict[str, Path]):
    page, troubles = opened(chromium, pages["online_retail"], "desk")
    point = page.locator("#forecast-0 .scatterlayer .point").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#forecast-0 .hoverlayer text", state="attached")
    assert "happened Fri 11 Nov: " in page.locator("#forecast-0 .hoverlayer").text_content()
    assert troubles == []
    page.close()


def test_a_dark_scheme_reaches_page_and_drawings(chromium: Any, pages: dict[str, Path]):
    page, troubles = opened(chromium, pages["online_retail"], "desk", "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 27)"
    assert page.evaluate(INK) == "rgb(232, 230, 225)"
    assert troubles == []
    page.close()


def test_paper_shows_light_drawings_that_fit(chromium: Any, pages: dict[str, Path]):
    page, troubles = opened(chromium, pages["online_retail"], "desk", "dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": 690, "height": 1000})
    page.wait_for_timeout(200)
    assert page.evaluate(TOO_WIDE) == []
    assert page.evaluate(INK) == "rgb(27, 31, 36)"
    assert troubles == []
    page.close()


@pytest.mark.usefixtures("chromium")
def test_the_camera_takes_a_picture(pages: dict[str, Path], tmp_path: Path):
    # By the command: a second playwright cannot start in the thread of an open one.
    out = tmp_path / "images" / "report.png"
    command = [sys.executable, str(ROOT / "docs/make_screenshot.py"), str(pages["online_retail"]), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    header = out.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(header[16:20]), int.from_bytes(header[20:24])) == SIZES["desk"]
