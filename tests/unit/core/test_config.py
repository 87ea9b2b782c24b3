"""Strict config: what is wrong is named with its place and the nearest right name, at any depth."""

import pytest
from pydantic import Field, ValidationError

from habitus.core.config import Config, read_toml
from habitus.core.errors import ConfigError


class Leaf(Config):
    """A leaf."""

    size: int = 1


class Tree(Config):
    """A tree."""

    name: str
    leaf: Leaf = Leaf()
    leaves: tuple[Leaf, ...] = ()
    named: dict[str, Leaf] = Field(default_factory=dict)


@pytest.mark.parametrize(
    "values",
    [
        {"leaf": {"sise": 2}},
        {"leaves": [{"size": 1}, {"sise": 2}]},
        {"named": {"a": {"sise": 2}}},
    ],
)
def test_the_nearest_key_is_found_at_any_depth(values):
    with pytest.raises(ConfigError) as caught:
        Tree.parse({"name": "oak"} | values, where="tree.toml")
    assert "did you mean 'size'?" in str(caught.value)
    assert "tree.toml" in caught.value.where


def test_missing_and_mistyped_values_are_named():
    with pytest.raises(ConfigError, match="a key 'name'"):
        Tree.parse({})
    with pytest.raises(ConfigError) as caught:
        Tree.parse({"name": "oak", "leaf": {"size": "big"}})
    assert "leaf.size" in caught.value.where
    assert "'big'" in caught.value.found


def test_configs_do_not_change():
    with pytest.raises(ValidationError):
        Leaf().size = 3  # type: ignore[misc]


def test_files_that_are_absent_or_broken(tmp_path):
    (tmp_path / "recipe.toml").write_text("a = [1,\n")
    with pytest.raises(ConfigError, match=r"did you mean .*recipe\.toml"):
        read_toml(tmp_path / "recipes.toml")
    with pytest.raises(ConfigError, match="valid TOML"):
        read_toml(tmp_path / "recipe.toml")
