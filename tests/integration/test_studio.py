"""The studio in headless Chromium: asked, edited, by keyboard, at phone width, without a word to anybody else."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from habitus.tasks.run import open_run
from habitus.testing.runs import CUTOFF
from habitus.testing.threads import one_thread

__all__ = ["one_thread"]
CAMERA = runpy.run_path(str(Path(__file__).parents[2] / "docs/make_screenshot.py"))
NARROW = "document.documentElement.scrollWidth <= window.innerWidth"


@pytest.fixture(scope="module")
def chromium():
    pytest.importorskip("playwright", reason="playwright is not installed")
    executable = CAMERA["find_chromium"]()
    if executable is None:
        pytest.skip("no Chromium is installed")
    with CAMERA["browser"](executable) as browser:
        yield browser


@pytest.fixture(scope="module")
def days(day_run, serve_runs):
    with serve_runs([day_run], cutoff=CUTOFF, window_ms=5, timeout_s=100) as (address, _):
        yield address


def opened(chromium: Any, address: str, width: int = 1280, height: int = 900) -> tuple[Any, list[str]]:
    page = chromium.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(CAMERA["PATIENCE"])
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    page.on(
        "request", lambda asked: asked.url.startswith((address, "data:")) or troubles.append(f"request: {asked.url}")
    )
    page.goto(address + "/")
    return page, troubles


def some_user(day_run: Path) -> str:
    return str(open_run(day_run).store.users["user"][0])


def drawn(page: Any, n: int) -> None:
    page.wait_for_selector(f"html[data-drawn='{n}']", state="attached")


def test_an_edit_changes_the_difference_and_undoing_it_takes_it_away(chromium, days):
    page, troubles = opened(chromium, days)
    drawn(page, 1)
    assert "as planned" in page.inner_text("#headline")
    assert page.locator("#forecast path.past").count() == 1
    assert not page.is_visible("#difference-figure")
    sale = page.locator("#events li", has_text="sale").locator("button[aria-label^='drop']").first
    sale.click()
    drawn(page, 2)
    first = page.inner_text("#numbers")
    assert "difference, by days" in first
    assert page.locator("#difference rect").count() == 14
    assert page.locator("#forecast path.edited-line").count() == 1
    assert "dropped" in page.inner_text("#evidence")
    page.locator("button[aria-label^='keep']").first.click()
    drawn(page, 3)
    page.locator("#events li", has_text="sale").locator("button[aria-label^='a week later']").first.click()
    drawn(page, 4)
    assert page.inner_text("#numbers") != first
    assert "moved" in page.inner_text("#evidence")
    page.click("#undo")
    drawn(page, 5)
    assert not page.is_visible("#difference-figure")
    assert page.locator("#gate tr.is-model").count() >= 1
    assert page.locator("#notes li").count() >= 3
    assert troubles == []
    page.close()


def test_an_event_is_added_by_keyboard_and_moved_to_others(chromium, days):
    page, troubles = opened(chromium, days)
    drawn(page, 1)
    page.focus("#new-name")
    page.keyboard.press("Control+A")
    page.keyboard.type("Big sale")
    page.keyboard.press("Enter")
    drawn(page, 2)
    assert "Big sale" in page.inner_text("#events")
    assert "added" in page.inner_text("#evidence")
    page.select_option("select[aria-label^='who gets mail']", "")
    drawn(page, 3)
    assert "addressed to others" in page.inner_text("#evidence")
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert troubles == []
    page.close()


def test_one_user_at_phone_width(chromium, days, day_run):
    page, troubles = opened(chromium, days, 390, 844)
    drawn(page, 1)
    assert page.evaluate(NARROW)
    page.select_option("#scope", "user")
    page.fill("#user", "nobody")
    page.press("#user", "Enter")
    page.wait_for_selector("#trouble:not([hidden])")
    assert "send their history" in page.inner_text("#trouble")
    page.fill("#user", some_user(day_run))
    page.press("#user", "Enter")
    page.wait_for_selector("#alike tbody tr")
    assert page.locator("#alike tbody tr").count() == 8
    assert not page.is_visible("#trouble")
    assert page.evaluate(NARROW)
    assert all("404" in trouble for trouble in troubles), troubles
    page.close()


def test_a_run_of_events_shows_what_comes_and_a_drawn_fortnight(chromium, event_run, serve_runs):
    with serve_runs([event_run], window_ms=5, timeout_s=100) as (address, _):
        page, troubles = opened(chromium, address, 390, 844)
        page.wait_for_selector("#happenings:not([hidden])")
        page.fill("#user", "u003")
        page.press("#user", "Enter")
        page.wait_for_selector("#drawn li")
        assert page.locator("#next svg").count() == 2
        assert "%" in page.inner_text("#next")
        assert page.evaluate(NARROW)
        assert troubles == []
        page.close()


def test_a_run_of_lives_shows_interests_and_look_alikes(chromium, life_run, day_run, serve_runs):
    with serve_runs([life_run, day_run], window_ms=5, timeout_s=100) as (address, _):
        page, troubles = opened(chromium, address, 390, 844)
        page.wait_for_selector("#lives:not([hidden])")
        page.fill("#user", "u003")
        page.press("#user", "Enter")
        page.wait_for_selector("#like tbody tr")
        assert page.locator("#like tbody tr").count() == 10
        assert page.locator("#life svg").count() >= 2
        assert "·" in page.inner_text("#like tbody tr td.words >> nth=0")
        assert page.evaluate(NARROW)
        page.select_option("#run", "tiny_world")
        page.wait_for_selector("#days:not([hidden])")
        assert not page.is_visible("#lives")
        assert troubles == []
        page.close()


def test_the_page_asks_for_a_key_and_opens_with_it(chromium, day_run, serve_runs):
    key = "a key of sixteen characters"
    with serve_runs([day_run], cutoff=CUTOFF, window_ms=5, timeout_s=100, keys=(key,)) as (address, _):
        page, troubles = opened(chromium, address)
        page.wait_for_selector("#lock:not([hidden])")
        assert not page.is_visible("#studio")
        page.fill("#key", key)
        page.press("#key", "Enter")
        drawn(page, 1)
        assert page.is_visible("#studio")
        assert not page.is_visible("#lock")
        assert all("401" in trouble for trouble in troubles), troubles
        page.close()
