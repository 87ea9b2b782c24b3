"""The report: one self-contained page that says what was asked, what the answer is and how sure, losses included."""

from __future__ import annotations

import json
import math
import re
import runpy
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from habitus.core.errors import ArtifactError
from habitus.tasks.report import report
from habitus.tasks.report.first import first_screen
from habitus.tasks.report.page import PARTS, render
from habitus.tasks.report.plots import forest, inside, wilson
from habitus.tasks.report.record import Difference, Estimate, Record, read_record
from habitus.tasks.report.verdict import best_gate, outcome_of, verdicts
from habitus.tasks.report.words import gap_place, number, place, quantity, span

FIXTURE = runpy.run_path(str(Path(__file__).with_name("report_fixture.py")))
online_retail, awkward, bare = FIXTURE["online_retail"], FIXTURE["awkward"], FIXTURE["bare"]
HOSTILE, LONG = FIXTURE["HOSTILE"], FIXTURE["LONG"]


class _Words(HTMLParser):
    """The words a reader sees, and the tags."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


def parse(page: str) -> _Words:
    parser = _Words()
    parser.feed(page)
    return parser


def words(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(parse(page).words))


def page_of(metrics: dict[str, Any]) -> str:
    return render(Record.model_validate(metrics))


@pytest.fixture(scope="module")
def full() -> str:
    return page_of(online_retail())


@pytest.fixture(scope="module")
def strange() -> str:
    return page_of(awkward())


def test_one_file_that_loads_nothing(tmp_path: Path):
    run = FIXTURE["write_run"](tmp_path / "run", online_retail(), recipe='size = "small"  # <b>')
    path = report(run)
    page = path.read_text("utf-8")
    assert path == run / "report.html"
    loading = [(tag, attrs) for tag, attrs in parse(page).tags if attrs.get("src") or attrs.get("href")]
    assert all(attrs["href"] == "data:," or str(attrs["href"]).startswith("#") for _, attrs in loading), loading
    assert "default-src 'none'" in page
    assert page.count("plotly.js v") == 1, "plotly.js stands in the page once"
    assert 'size = "small" # <b>' in words(page), "the recipe of the run is shown as it stands"
    assert report(run, tmp_path / "elsewhere.html").read_text("utf-8") == page, "the same figures give the same page"


def test_first_screen_tells_the_story(full: str):
    text = words(full)
    assert "What will the users of Online Retail do in the 28 days after 10 November 2011?" in text
    assert "1,290 of 4,101 users" in text
    assert "GBP 810k" in text
    assert "happened: 1,326, inside the range" in text
    assert "happened: GBP 962k, above the range" in text
    assert "LUMOS beats the best baseline on 1 of 4 targets (days). No clear difference on buy and spend." in text
    assert "Worse on cancel." in text
    assert "Stated chances are off by 2.1 (buy) and 0.9 (cancel) points in 100" in text


def test_every_part_is_there_in_order(full: str):
    heads = [attrs["id"] for tag, attrs in parse(full).tags if tag == "section" and attrs.get("id")]
    assert heads == ["data", "training", "comparison", "chances", "forecast", "what-if", "made"]
    assert "To fill this part" not in words(full), "nothing is called missing when all is there"


def test_a_lost_comparison_is_said_plainly(strange: str):
    text = words(strange)
    assert "LUMOS beats the best baseline on 1 of 4 targets (days). Worse on" in text
    assert "LUMOS loses: AUC 0.770 against 0.789 of LightGBM, a difference of −0.019 [−0.033, −0.005]." in text
    assert "For this target, use LightGBM." in text


def test_a_blend_is_judged_in_a_sentence(full: str):
    assert "LUMOS + trees, the mean of both, against LightGBM: no clear difference, AUC +0.002" in words(full)


def test_rates_are_of_the_test_when_it_was_counted(full: str, strange: str):
    assert "at least one purchase, yes or no. It came true in 32 % of the test rows." in words(full).replace(
        "\u202f", " "
    )
    assert "at least one purchase, yes or no. It came true in 32 % of the rows." in words(strange).replace(
        "\u202f", " "
    )


def test_no_win_at_all_leads_the_verdict():
    metrics = online_retail()
    for row in metrics["differences"]:
        row["is_better"] = None
        row["low"], row["high"] = -1.0, 1.0
    first = first_screen(Record.model_validate(metrics))
    assert first.verdict == "LUMOS does not beat the best baseline on any target. No clear difference on all 4."


def test_a_win_over_weak_rivals_is_not_passed_off_as_knowledge():
    metrics = online_retail()
    for row in metrics["table"]:
        if (row["target"], row["model"]) == ("days", "LUMOS"):
            row["metrics"]["wape"] = {"value": 1.0, "low": 1.0, "high": 1.0}
        if (row["target"], row["model"]) == ("buy", "LUMOS"):
            row["metrics"]["auc"] = {"value": 0.51, "low": 0.495, "high": 0.525}
    text = words(page_of(metrics))
    assert "On buy it is no better than a coin toss. On days it is no better than forecasting nothing." in text
    assert "But LUMOS itself is no better than forecasting nothing here." in text


def test_names_are_escaped_everywhere(strange: str):
    tags = parse(strange).tags
    assert sum(tag == "script" for tag, _ in tags) == 4, "only the page's own scripts"
    assert "<script>window.hacked" not in strange
    assert HOSTILE in " ".join(parse(strange).words), "the name is shown as it was written"
    drawings = strange.split('id="drawings">')[1].split("</script>")[0]
    assert "<" not in drawings
    assert "\\u0026lt;script" in drawings, "plotly reads tags in labels, so names are escaped there too"


def test_what_cannot_be_computed_is_said_not_printed(strange: str):
    text = words(strange)
    assert "AUC cannot be computed: not one test row had this outcome." in text
    assert "No test row came true: too few to judge these chances." in text
    assert not re.search(r"\b(nan|None|inf)\b", text)


@pytest.mark.parametrize(
    ("key", "words_of_gap", "command"),
    [
        ("data", "The data profile is not here yet.", "habitus evaluate RUN"),
        ("history", "No training curves were recorded.", "habitus train RECIPE"),
        ("reliability", "Calibration has not been measured.", "habitus evaluate RUN"),
        ("daily", "There is no daily forecast yet.", "habitus evaluate RUN"),
        ("whatif", "No other calendar has been tried.", "habitus whatif RUN --calendar base.csv --edit move_sale.csv"),
    ],
)
def test_an_absent_part_names_its_command(key: str, words_of_gap: str, command: str):
    metrics = online_retail()
    del metrics[key]
    assert f"{words_of_gap} To fill this part, run {command}" in words(page_of(metrics))


def test_a_fresh_run_is_a_page_of_gaps():
    text = words(page_of(bare()))
    assert text.count("To fill this part, run") == 9
    assert "Nothing has been compared with a baseline yet." in text


def test_each_single_key_may_be_absent_or_null():
    for key in online_retail():
        for change in (lambda m, k: m.pop(k), lambda m, k: m.update({k: None})):
            metrics = online_retail()
            change(metrics, key)
            record = Record.model_validate(metrics)
            first_screen(record)
            assert all(part(record).blocks for part in PARTS)


def test_without_totals_users_are_averaged_and_amounts_summed():
    metrics = online_retail()
    del metrics["totals"]
    users, spend = first_screen(Record.model_validate(metrics)).answers
    ahead = metrics["daily"][0]["forecast"]["value"]
    assert users.figure == f"{sum(ahead) / 28:.0f} users"
    assert users.words == "a day, on average"
    assert (spend.figure[:4], spend.words) == ("GBP ", "over 28 days")


def test_one_seed_and_one_calendar_are_said(strange: str):
    text = words(strange)
    assert "Trained once (one seed)" in text
    assert "Only one calendar was given, “as planned”" in text


def test_a_placebo_that_moves_as_much_is_a_warning():
    metrics = online_retail()
    assert "a placebo that should change nothing moved" not in words(page_of(metrics))
    row = next(r for r in metrics["whatif"]["rows"] if r["calendar"] == "no Christmas" and r["target"] == "buy")
    row["verdict"] = "noise"  # though its own interval leaves out 0
    text = words(page_of(metrics))
    assert "Under “no Christmas” a placebo that should change nothing moved buy about as much as the answer" in text
    metrics["whatif"]["placebo"] = []
    assert "No placebo was run" in words(page_of(metrics))


def test_the_first_screen_answers_the_what_if(full: str):
    first = first_screen(Record.model_validate(online_retail()))
    asked = dict(first.asked)["What if"]
    assert asked.replace("\u00a0", " ") == "Christmas Day dropped (25 Dec) and Cyber Monday moved to 21 Nov"
    buy, _ = first.answers
    assert tuple(line.replace("\u00a0", " ") for line in buy.others) == (
        "if “no Christmas”: −40 [−55, −24]",
        "if “sale one week earlier”: +8, may be noise",
    )
    assert "A change of nothing gave exactly 0." in words(full)


def test_what_if_says_what_is_clear_and_what_is_not(full: str):
    text = words(full).replace("\u202f", " ").replace("\u00a0", " ")
    assert "Under “no Christmas”: buy −40 users [−55, −24], cancel −12 users [−15, −8]" in text
    assert "more than trainings disagree, and more than any placebo moved it." in text
    assert "No change that can be told from noise for buy and cancel." in text
    assert "New Year sale (“no Christmas”) is announced after the cut-off, so it changes nothing." in text
    assert "exactly 0 for every user and day" in text
    assert "“no Christmas”: most on 21 November 2011, −3 users." in text


def test_the_days_lead_where_they_were_asked(full: str):
    text = words(full).replace("\u202f", " ").replace("\u00a0", " ")
    assert "Change, by days Change, window as a whole" in text
    assert "spend −GBP 160k [−200k, −120k]" in text, "four times what the window as a whole says"
    assert "The two readings of spend disagree" in text
    assert "the answer, window as a whole" in text
    metrics = online_retail()
    for row in metrics["whatif"]["rows"]:
        row.pop("day_difference", None)
    text = words(page_of(metrics)).replace("\u202f", " ").replace("\u00a0", " ")
    assert "window as a whole" not in text
    assert "disagree: by days" not in text


def test_segments_and_events_have_tables_of_their_own(full: str):
    text = words(full).replace("\u202f", " ").replace("\u00a0", " ")
    assert "“no Christmas” against “as planned”, by country" in text
    assert "United Kingdom 3,691 users −3.1 % [−4.3, −1.9] −36 of 1,160 users" in text
    assert "What does each of the 2 coming events of “as planned” add?" in text
    assert "buy: what each event adds, in users" in text
    assert "placebo: just after the window" in text


def test_a_null_that_is_not_zero_is_a_warning():
    metrics = online_retail()
    metrics["whatif"]["null"][0]["largest"] = 0.25
    assert "an answer moved by 0.25, so trust no answer here" in words(page_of(metrics))


def test_a_what_if_without_intervals_says_so():
    metrics = online_retail()
    for row in metrics["whatif"]["rows"]:
        row.update(low=None, high=None, verdict="unknown", day_low=None, day_high=None, day_verdict="unknown")
    text = words(page_of(metrics))
    assert "No interval was computed" in text
    assert "no interval known" in text
    assert "answer, clear of noise" not in text


def test_few_past_occurrences_are_a_warning():
    metrics = online_retail()
    metrics["whatif"]["changes"][0].update(warning=None, n_past=2)
    assert "Christmas Day: seen 2 times in the past: too few to learn from" in words(page_of(metrics))


def test_training_that_reaches_into_the_test_is_said(full: str):
    assert "no day of a test bar was used to build the model" in words(full)
    metrics = online_retail()
    metrics["cutoffs"]["train"].append("2011-10-01")
    assert "the test is not clean" in words(page_of(metrics))


def test_every_drawing_draws_and_speaks(full: str, strange: str):
    for page in (full, strange):
        drawings = json.loads(page.split('id="drawings">')[1].split("</script>")[0])
        alts = {attrs["id"]: attrs["aria-label"] for tag, attrs in parse(page).tags if attrs.get("class") == "drawing"}
        assert set(drawings) == set(alts)
        assert len(drawings) >= 10
        for key, drawing in drawings.items():
            assert any(v is not None for trace in drawing["data"] for v in trace["y"]), f"{key} is empty"
            assert go.Figure(drawing).data, f"plotly refuses {key}"
            assert len(alts[key] or "") > 20, f"{key} has no words for those who cannot see it"


def test_tables_have_captions_and_scopes(full: str):
    tags = parse(full).tags
    assert sum(tag == "table" for tag, _ in tags) == sum(tag == "caption" for tag, _ in tags) > 10
    assert all(attrs.get("scope") for tag, attrs in tags if tag == "th")
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), "no heading level is skipped"


def difference(low: float | None, high: float | None, metric: str = "auc", **more: Any) -> Difference:
    value = None if low is None or high is None else (low + high) / 2
    return Difference(target="t", metric=metric, model="m", against="g", value=value, low=low, high=high, **more)


def test_outcome_of_a_difference():
    assert outcome_of(difference(-0.01, 0.02)) == "level"
    assert outcome_of(difference(0.01, 0.02)) == "better"
    assert outcome_of(difference(0.01, 0.02, "log_loss")) == "worse"
    assert outcome_of(difference(-0.02, -0.01, "wape")) == "better"
    assert outcome_of(difference(0.01, 0.02, "no_such_metric")) == "untested"
    assert outcome_of(difference(None, None)) == "untested"
    assert outcome_of(difference(0.01, 0.02, is_better=False)) == "worse", "the file's own verdict stands"


def test_verdicts_are_about_the_best_baseline():
    record = Record.model_validate(online_retail())
    assert [(v.target.name, v.outcome, v.metric, v.against) for v in verdicts(record)] == [
        ("buy", "level", "auc", "LightGBM + known events"),
        ("cancel", "worse", "auc", "LightGBM"),
        ("spend", "level", "wape", "LightGBM"),
        ("days", "better", "wape", "LightGBM + known events"),
    ]
    assert best_gate(record, "buy", "log_loss") == "LightGBM", "lower is better there"


def test_digits_follow_the_interval():
    assert place(0.7512, 0.7374, 0.765) == -3
    assert place(812345.6, 688210, 961400) == 4
    assert quantity(812345.6, "GBP", 4) == "GBP 810k"
    assert number(1288.4, place(1288.4, 1172, 1411)) == "1,290"
    assert number(-0.0004, -3, sign=True) == "0.000", "no sign on what rounds to nothing"
    assert span(1.0, None, 0) == ""
    assert gap_place(difference(0.0003, 0.0177)) == -4, "a bound that is not 0 does not look like 0"
    assert gap_place(difference(-0.0003, 0.0177)) == -3
    assert gap_place(Estimate(value=773.0), -12) == 1, "two digits when nothing is known of its interval"
    assert gap_place(difference(1e-12, 0.0177)) == -3, "nor are endless digits written"
    assert number(1_234_567, 4) == "1.23M"


def test_a_row_far_off_is_an_arrow_at_the_edge():
    ends = [(0.25, 0.27), (-0.01, 0.01), (0.0, 0.012)]
    rows = [difference(*low_high).model_copy(update={"against": f"g{i}"}) for i, low_high in enumerate(ends)]
    figure = forest(rows, "g1")
    low, high = figure["layout"]["xaxis"]["range"]
    symbols = [trace["marker"]["symbol"] for trace in figure["data"] if trace["mode"] == "markers"]
    assert high < 0.1, "the deciding rows keep the scale"
    assert symbols.count("triangle-right") == 1
    assert all(low <= x <= high for trace in figure["data"] for x in trace["x"])


def test_band_and_wilson():
    entry = Record.model_validate(online_retail()).daily[0]
    held = inside(entry)
    ahead = entry.forecast
    days = zip(ahead.actual, ahead.low, ahead.high)
    assert held == [lo <= a <= hi for a, lo, hi in days if a is not None and lo is not None and hi is not None]
    low, high = wilson(0.0, 100)
    assert low == 0
    assert math.isclose(high, 1.96**2 / (100 + 1.96**2), rel_tol=1e-9)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda run: (run / "metrics.json").unlink(), "no such file"),
        (lambda run: (run / "metrics.json").write_text('{"format": 1, "na'), "Unterminated"),
        (lambda run: (run / "metrics.json").write_text('{"format": 2}'), "format 2"),
        (lambda run: (run / "metrics.json").write_text("[]"), "list"),
        (lambda run: (run / "metrics.json").write_text('{"seeds": "three"}'), "seeds"),
        (
            lambda run: (run / "metrics.json").write_text(
                '{"daily": [{"target": "t", "past": {"day": [], "value": [1]}}]}'
            ),
            "1 values of 'value' for 0 of 'day'",
        ),
    ],
)
def test_bad_input_is_one_error_and_the_old_page_stays(tmp_path: Path, spoil: Callable[[Path], Any], found: str):
    run = FIXTURE["write_run"](tmp_path / "run", bare())
    page = report(run).read_bytes()
    spoil(run)
    with pytest.raises(ArtifactError) as error:
        report(run)
    assert found in str(error.value)
    assert "metrics.json" in str(error.value)
    assert (run / "report.html").read_bytes() == page
    assert sorted(p.name for p in run.iterdir() if p.name != "metrics.json") == ["report.html"]


def test_no_run_at_all(tmp_path: Path):
    with pytest.raises(ArtifactError, match="no such folder"):
        report(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_facts_of_the_run_fill_in(tmp_path: Path):
    run = FIXTURE["write_run"](tmp_path / "run", {"format": 1, "commit": "abc"})
    (run / "run.json").write_text('{"name": "r1", "commit": "old", "hardware": "a laptop", "store": "/data"}')
    record = read_record(run)
    assert (record.name, record.commit, record.hardware) == ("r1", "abc", "a laptop")


def test_a_run_of_whole_lives_has_a_page_of_its_own(tmp_path: Path):
    anchors = [
        {"share": 0.7, "interests": ["tea", "<b>cups</b>"], "twin": 1, "likeness": 0.25},
        {"share": 0.3, "interests": [], "twin": 0, "likeness": 0.25},
    ]
    alarm = "anchor 0 holds 70 % of the mass"
    lives = {"until": "2024-05-31", "block": "week", "scales": "4x6, life", "n_interests": 40, "width": 64,
             "n_trained": 50, "n_too_short": 3, "anchors": anchors, "alarms": [alarm]}  # fmt: skip
    cell = {"label": "stays", "head": "trees", "n": 60, "positive": 20, "auc": 0.8, "low": 0.7, "high": 0.9}
    rows = [
        cell | {"features": "aggregates", "gain": 0.0, "gain_low": 0.0, "gain_high": 0.0},
        cell | {"features": "both", "auc": 0.84, "gain": 0.04, "gain_low": 0.01, "gain_high": 0.07},
    ]
    told = {"format": 1, "name": "lives", "lives": lives, "data": {"name": "shop", "n_users": 60, "n_events": 500}}
    told |= {"history": [{"seed": 0, "epoch": 1, "train": 3.0, "valid": 2.5}]}
    (tmp_path / "metrics.json").write_text(json.dumps(told))
    before = report(tmp_path).read_text("utf-8")
    assert "habitus probe RUN --fuse" in before
    assert "habitus evaluate RUN" not in before
    probe = {"verdict": "both beats aggregates alone", "against": "aggregates", "rows": rows}
    (tmp_path / "metrics.json").write_text(json.dumps(told | {"probe": probe}))
    page = report(tmp_path).read_text("utf-8")
    for words in ("both beats aggregates alone", "Anchor 0, 70", "&lt;b&gt;cups", "+0.0400", "holds 70 % of the mass"):
        assert words in page, words
    assert "<b>cups" not in page
