"""The schema: what a TOML file may say, what is refused, and that writing and reading agree."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from habitus.core.errors import ConfigError, SchemaError
from habitus.data.schema import Part, Schema, mentions
from habitus.data.schema_toml import write_toml
from habitus.data.sources.online_retail import FOLDER

LEAST = {"events": {"user": "u", "time": "t", "type": "k"}}


def with_events(**parts: object) -> dict:
    return {"events": LEAST["events"] | parts}


def test_a_text_is_a_column_and_a_table_is_sql_or_a_constant():
    assert Part.model_validate("a") == Part(column="a")
    schema = Schema.parse(with_events(type={"constant": "visit"}, item={"sql": "lower(sku)"}))
    assert schema.events.type.constant == "visit"
    assert schema.events.item is not None
    assert schema.events.item.sql == "lower(sku)"
    with pytest.raises(ConfigError, match="exactly one of"):
        Schema.parse(with_events(item={"sql": "a", "column": "b"}))


def test_an_amount_may_name_its_value_and_unit():
    amounts = {"spend": {"value": {"sql": "q * p"}, "unit": "GBP", "min": 0}, "n": {"value": "q"}}
    schema = Schema.parse(with_events(amounts=amounts))
    assert schema.events.amounts["spend"].sql == "q * p"
    assert schema.events.amounts["spend"].min == 0
    assert schema.events.amounts["n"].column == "q"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"events": {"user": "u", "time": "t"}}, "events.type"),
        (with_events(usr="u"), "did you mean 'user'"),
        (with_events(time_range=["2011-02-01", "2011-01-01"]), "not after the last"),
        (with_events(time_range=["soon", "later"]), "time_range"),
        (with_events(amounts={"time": {"value": "x"}}), "plain name"),
        (with_events(amounts={"a b": {"value": "x"}}), "plain name"),
        (with_events(amounts={"x": {"value": "x"}}, categories={"x": "y"}), "each name once"),
        (LEAST | {"max_rejected": 2}, "max_rejected"),
        (LEAST | {"profile": {"from": "table", "columns": {"a": {"column": "a"}}}}, "key ="),
        (LEAST | {"profile": {"columns": {"a": {"column": "a", "kind": "colour"}}}}, "profile.columns.a.kind"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(values: dict, words: str):
    with pytest.raises(ConfigError, match="(?s)" + words.replace(".", r"\.")):
        Schema.parse(values, where="shop.toml")


def test_an_unknown_time_zone_names_the_nearest():
    with pytest.raises(SchemaError) as caught:
        Schema.parse(LEAST | {"time_zone": "Europe/Lodnon"}, where="shop.toml")
    assert "did you mean 'Europe/London'?" in str(caught.value)
    assert "shop.toml: time_zone" in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        with_events(amounts={"score": {"value": "Score"}}, as_of_end=["Score"]),
        with_events(type={"sql": "CASE WHEN score > 0 THEN 'a' END"}, as_of_end=["Score"]),
        LEAST | {"profile": {"columns": {"r": {"column": "Score"}}, "as_of_end": ["Score"]}},
        LEAST | {"items": {"columns": {"r": {"sql": "max(Score, 1)"}}, "as_of_end": ["Score"]}},
    ],
)
def test_a_column_written_after_the_fact_is_refused_as_any_part(values: dict):
    with pytest.raises(SchemaError, match="as_of_end"):
        Schema.parse(values)


def test_mentions_finds_whole_words_only():
    assert mentions('"Unit Price" + tax', "Unit Price")
    assert not mentions("UnitPrices", "UnitPrice")


def test_dump_and_toml_are_read_back_as_the_same_schema():
    shipped = Schema.read(FOLDER / "schema.toml")
    everything = Schema.parse(
        {
            "name": "all",
            "time_zone": "Asia/Kolkata",
            "events": {
                "user": {"sql": 'CAST("a ""b" AS BIGINT)'},
                "time": "when",
                "time_unit": "ms",
                "type": {"constant": "visit"},
                "order": "n",
                "key": ["a", "b"],
                "time_range": ["2020-01-01", "2020-12-31"],
                "columns": {"a b": "BIGINT"},
                "amounts": {"spend": {"value": "x", "unit": "EUR", "min": -1.5, "max": 1e9}},
                "categories": {"shop": "shop", "city": {"sql": "upper(city)"}},
                "text": {"query": "q"},
            },
            "profile": {"from": "table", "key": "id", "columns": {"since": {"column": "s", "kind": "registered"}}},
            "items": {"columns": {"title": {"column": "t", "kind": "text"}}, "as_of_end": ["rating"]},
        }
    )
    for schema in (shipped, everything):
        assert Schema.parse(schema.dump()) == schema
        assert Schema.parse(tomllib.loads(write_toml(schema))) == schema


def test_a_missing_file_names_the_nearest(tmp_path: Path):
    (tmp_path / "shop.toml").write_text("")
    with pytest.raises(ConfigError, match=r"did you mean .*shop\.toml"):
        Schema.read(tmp_path / "shpo.toml")
