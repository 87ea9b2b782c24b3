"""From tables to a verdict: what is counted, what blocks, what decides."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.apps.abtest.analyse import analyse
from habitus.apps.abtest.declare import Experiment, read_experiment
from habitus.apps.abtest.monitor import monitor
from habitus.apps.abtest.plan import make_plan, read_plan, save_plan
from habitus.apps.abtest.report import judge_and_write
from habitus.apps.abtest.tables import read_units
from habitus.core.errors import ConfigError, SourceError
from tests.unit.apps.abtest.world import BUYERS, RATE, SLOW, SPEND, plan, tables


@pytest.fixture(scope="module")
def given():
    return tables()


LATE = dt.date(2024, 4, 1)


def test_a_clear_gain_is_shipped(given):
    found = analyse(plan(), tables=given, as_of=LATE)
    assert found.outcome == "ship", found.reasons
    primary = found.primary
    assert primary.chosen == "adjusted"
    assert primary.adjusted is not None
    assert primary.adjusted.se < primary.plain.se
    assert 0 < primary.decisive.lift_low < 0.4 < primary.decisive.lift_high + 0.2
    assert [row.guard for row in found.rows if row.role == "guardrail"] == ["held"]
    assert [row.p_holm is not None for row in found.rows] == [False, True, True, False]
    assert {split.family for split in found.splits} == {"overall", "day", "country"}
    assert {segment.name for segment in found.segments} == {"DE", "FR"}


def test_values_are_those_of_the_events(given):
    units = read_units(plan().experiment, tables=given, as_of=19_900)
    events = given["metrics"].group_by("user").agg(pl.col("bought").sum(), pl.col("spend").sum(), pl.len().alias("n"))
    own = given["assignment"].sort("time").select("user").join(events, on="user", how="left", maintain_order="left")
    assert units.user.to_list() == own["user"].to_list()
    np.testing.assert_array_equal(units.metrics["buyers"].values[:, 0], (own["bought"] > 0).cast(pl.Float64))
    np.testing.assert_allclose(units.metrics["spend"].values[:, 0], own["spend"])
    np.testing.assert_array_equal(units.metrics["conversion"].values[:, :2], own.select("bought", "n"))
    assert units.metrics["buyers"].values[:, -1].sum() == 1500


def test_events_before_exposure_and_after_the_window_do_not_count(given):
    extra = given["assignment"].head(2).select("user", pl.col("time") + pl.Series([dt.timedelta(-1), dt.timedelta(7)]))
    extra = extra.with_columns(bought=pl.lit(1), slow=pl.lit(1), spend=pl.lit(1e9))
    more = given | {
        "metrics": pl.concat([given["metrics"], extra.select(given["metrics"].columns)], how="vertical_relaxed")
    }
    one, other = (analyse(plan(), tables=each, as_of=LATE) for each in (given, more))
    assert one.rows[1].plain == other.rows[1].plain


def test_harm_beyond_the_margin_stops_a_gain():
    found = analyse(plan(), tables=tables(harm=2.0), as_of=LATE)
    assert found.outcome == "stop"
    assert "slow" in found.verdict


def test_a_loss_is_stopped_and_no_effect_is_said_to_be_none():
    assert analyse(plan(), tables=tables(lift=-0.5), as_of=LATE).outcome == "stop"
    assert analyse(plan(), tables=tables(lift=0.0, seed=3), as_of=LATE).outcome == "no difference"


def test_lost_users_block_the_verdict(given):
    treated = pl.col("arm") == "treatment"
    lost = given["assignment"].filter(~(treated & (pl.int_range(pl.len()) % 8 == 0)))
    found = analyse(plan(), tables=given | {"assignment": lost}, as_of=LATE)
    assert found.outcome == "invalid"
    assert "split" in found.verdict
    only = given["assignment"].filter(~(treated & (pl.col("country") == "FR") & (pl.int_range(pl.len()) % 5 == 0)))
    splits = analyse(plan(), tables=given | {"assignment": only}, as_of=LATE).splits
    assert [split.place for split in splits if split.is_off and split.family == "country"] == ["FR"]


def test_a_fixed_plan_has_no_verdict_before_its_end(given):
    early = given | {"assignment": given["assignment"].filter(pl.col("time") < dt.datetime(2024, 3, 9))}
    found = analyse(plan(), tables=early, as_of=LATE)
    assert found.outcome == "not yet"
    assert [what for what, _, _, is_done in found.planned if not is_done][:1] == ["users per arm, fewest"] or any(
        what == "days of entry" for what, _, _, is_done in found.planned if not is_done
    )


def test_fewer_users_than_planned_are_judged_at_the_planned_end_and_it_is_said(given):
    few = given | {"assignment": given["assignment"].gather_every(4)}
    known = plan(({**BUYERS, "lift": 0.1},))
    found = analyse(known, tables=few, as_of=LATE)
    assert found.outcome in ("ship", "no difference")
    assert any(reason.startswith("users per arm, fewest: planned") for reason in found.reasons)
    early = analyse(known, tables=few, as_of=dt.date(2024, 3, 20))
    assert early.outcome == "not yet"
    assert any("windows are still open" in reason for reason in early.reasons)


def test_a_user_counts_once_the_window_has_closed(given):
    found = analyse(plan(method="sequential"), tables=given, as_of=dt.date(2024, 3, 14))
    why = found.primary.excluded["window still open"]
    n = found.primary.plain.n_control + found.primary.plain.n_treatment
    assert n + sum(why) == 6000
    closed = given["assignment"].filter(pl.col("time").dt.date() <= dt.date(2024, 3, 8))
    assert n == len(closed)


def test_monitoring_looks_every_day_and_stops_for_what_is_clear(given):
    found = monitor(plan(method="sequential"), tables=given, as_of=LATE)
    assert len(found.looks) == 14
    assert found.looks[0].rule == "wait"
    assert found.rule == "stop: better"
    last = found.looks[-1]
    assert last.lift_low < last.once_low < last.lift < last.once_high < last.lift_high
    assert monitor(plan(), tables=tables(harm=4.0), as_of=LATE).rule in ("stop: guardrail", "stop: better")
    lost = given["assignment"].filter((pl.col("arm") == "control") | (pl.int_range(pl.len()) % 4 > 0))
    assert monitor(plan(), tables=given | {"assignment": lost}, as_of=LATE).rule == "stop: split"


def test_the_last_look_is_the_sequential_analysis(given):
    known = plan(method="sequential")
    one, other = (
        analyse(known, tables=given, as_of=LATE).primary.decisive,
        monitor(known, tables=given, as_of=LATE).looks[-1],
    )
    assert (one.low, one.high, one.n_control) == pytest.approx((other.low, other.high, other.n_control))


BAD = {
    "an unknown arm": ({"arm": ["control", "b"] * 3000}, "arms 'control' and 'treatment'"),
    "most users in both arms": (None, "each user in one arm"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_assignment_that_means_something_else_is_an_error(given, case):
    change, words = BAD[case]
    table = given["assignment"]
    if change is None:
        table = pl.concat([table, table.with_columns(arm=pl.lit("control"))])
    else:
        table = table.with_columns(**{name: pl.Series(values) for name, values in change.items()})
    with pytest.raises(SourceError, match=words):
        analyse(plan(), tables=given | {"assignment": table}, as_of=LATE)


def test_a_few_users_in_both_arms_are_left_out_and_counted(given):
    twice = given["assignment"].head(20).with_columns(arm=pl.lit("control"))
    found = analyse(plan(), tables=given | {"assignment": pl.concat([given["assignment"], twice])}, as_of=LATE)
    both = given["assignment"].head(20).filter(pl.col("arm") == "treatment")
    assert found.counted == {"in both arms": len(both)}
    n = found.primary.plain.n_control + found.primary.plain.n_treatment
    assert n == 6000 - len(both)


def test_numbers_that_are_none_are_left_out_and_counted(given):
    spend = pl.when(pl.int_range(pl.len()) == 0).then(float("nan")).otherwise(pl.col("spend")).alias("spend")
    found = analyse(plan(), tables=given | {"metrics": given["metrics"].with_columns(spend)}, as_of=LATE)
    assert sum(found.rows[1].excluded["not a number"]) == 1
    assert found.rows[0].excluded == {}


def test_negative_denominators_and_missing_columns_are_errors(given):
    views = {**RATE, "per": "views"}
    with pytest.raises(SourceError, match="a column 'views'"):
        analyse(plan((BUYERS, views)), tables=given, as_of=LATE)
    rows = given["metrics"].with_columns(views=pl.lit(-1))
    with pytest.raises(SourceError, match="denominators of 0 or more"):
        analyse(plan((BUYERS, views)), tables=given | {"metrics": rows}, as_of=LATE)
    with pytest.raises(SourceError, match="table of the time before"):
        analyse(plan(), tables={key: given[key] for key in ("assignment", "metrics")}, as_of=LATE)


def test_tables_of_users_need_one_row_each_and_leave_out_who_has_none(given):
    own = given["metrics"].group_by("user").agg(pl.col("bought").max(), pl.col("spend").sum()).sort("user")
    known = plan((BUYERS, SPEND))
    found = analyse(known, tables=given | {"metrics": own.head(5000)})
    assert sum(found.rows[0].excluded["no row in the table"]) == 1000
    with pytest.raises(SourceError, match="one row per user"):
        analyse(known, tables=given | {"metrics": pl.concat([own, own])})


def test_without_any_past_the_plain_estimate_decides(given):
    nobody = pl.DataFrame({"user": ["x"], "before": [1.0]})
    found = analyse(plan(), tables=given | {"before": nobody}, as_of=LATE)
    assert found.primary.chosen == "plain"
    assert found.primary.adjusted is None


# plans ----------------------------------------------------------------------------------------------------------------


def test_a_plan_is_whole_weeks_and_survives_saving(tmp_path: Path):
    made = plan(days=None)
    assert made.days is not None
    assert made.days % 7 == 0
    save_plan(made, tmp_path / "p.json")
    assert read_plan(tmp_path / "p.json") == made
    text = (tmp_path / "p.json").read_text("utf-8").replace('"alpha": 0.05', '"alpha": 0.1')
    (tmp_path / "p.json").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match="fingerprint differs"):
        read_plan(tmp_path / "p.json")


def test_a_sequential_plan_asks_for_more_users():
    assert plan(method="sequential").n_per_arm == pytest.approx(1.91 * plan().n_per_arm, rel=0.01)


def test_each_step_of_the_ramp_says_which_harm_it_finds():
    steps = plan(ramp=(0.01, 0.05, 0.2, 0.5), ramp_days=1, users_per_day=10_000).steps
    assert [step.n_per_arm for step in steps][:3] == [100, 600, 2600]
    harm = [step.detectable for step in steps]
    assert harm == sorted(harm, reverse=True)


def test_clusters_and_the_past_move_the_number():
    common = {**SPEND, "role": "primary", "lift": 0.1, "name": "p"}
    base = plan((common,)).n_per_arm
    clustered = plan(({**common, "cluster_size": 23.3, "icc": 0.02},)).n_per_arm
    assert clustered / base == pytest.approx(1.446, abs=0.005)
    assert plan(({**common, "rho": 0.6},)).n_per_arm / base == pytest.approx(0.64, abs=0.005)


def test_baselines_are_measured_on_a_table_of_the_past():
    rng = np.random.default_rng(0)
    x = rng.gamma(1.0, 1.0, 5000)
    past = pl.DataFrame({"spend": x + rng.gamma(1.0, 1.0, 5000), "before": x})
    metric = {"name": "spend", "role": "primary", "kind": "mean", "value": "spend", "before": "before", "lift": 0.05}
    experiment = Experiment.parse({"name": "t", "salt": "s", "start": "2024-01-01", "metrics": [metric]})
    sized = make_plan(experiment, past).metrics["spend"]
    assert sized.baseline == pytest.approx(2.0, abs=0.1)
    assert sized.rho == pytest.approx(np.sqrt(0.5), abs=0.05)
    with pytest.raises(ConfigError, match="neither declared nor measurable"):
        make_plan(experiment)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ([SPEND], "exactly one metric"),
        ([BUYERS, BUYERS], "different names"),
        ([{**BUYERS, "lift": None}], "needs lift"),
        ([BUYERS, {**SLOW, "margin": None}], "guardrail has margin"),
        ([{**BUYERS, "per": "views"}], "a ratio has per"),
        ([{**BUYERS, "value": None}], "either target"),
        ([{**BUYERS, "value": None, "before": None, "target": "any(buy)"}], "a window"),
        ([{**BUYERS, "levt": 1}], "levt"),
    ],
)
def test_declarations_that_make_no_sense_are_refused(metrics, words):
    with pytest.raises(ConfigError, match=words):
        Experiment.parse({"name": "t", "salt": "s", "start": "2024-01-01", "metrics": metrics})


def test_days_are_whole_weeks():
    with pytest.raises(ConfigError, match="whole weeks"):
        plan(days=10)


# files ----------------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_and_says_the_verdict_first(given, tmp_path: Path):
    odd = given | {"assignment": given["assignment"].with_columns(country=pl.col("country").replace("DE", "</script>"))}
    said = judge_and_write(plan(), tmp_path / "out", LATE, odd)
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert said.startswith("Ship")
    assert page.index("Ship: treatment is better") < page.index("Effects")
    assert "http" not in page.split("<main>")[1].split("</main>")[0]
    assert "<td>&lt;/script&gt;" in page or "&lt;/script&gt;" in page
    assert (tmp_path / "out" / "analysis.json").is_file()


def test_a_declaration_finds_its_tables_beside_it(tmp_path: Path):
    (tmp_path / "t.toml").write_text(
        'name = "t"\nsalt = "s"\nstart = 2024-01-01\ntables = { metrics = "m.csv" }\n[[metrics]]\nname = "m"\n'
        'role = "primary"\nkind = "mean"\nvalue = "v"\nlift = 0.1\n', "utf-8")  # fmt: skip
    assert read_experiment(tmp_path / "t.toml").tables.metrics == str(tmp_path / "m.csv")
