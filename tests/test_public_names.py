"""The public names of `habitus`: written down here, so that adding or losing one is a decision."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import habitus

PUBLIC = {
    # the road: a log and its parts
    "Schema",
    "EventLog",
    "Calendar",
    "Store",
    "Cutoffs",
    "Target",
    "World",
    # the verbs, each also a command
    "ingest",
    "append",
    "erase",
    "train",
    "evaluate",
    "predict",
    "whatif",
    "embed",
    "generate",
    "report",
    "scale",
    "similar",
    "probe",
    # models and runs
    "Recipe",
    "Lumos",
    "LumosConfig",
    "LurmEncoder",
    # the rest
    "HabitusError",
    "__version__",
}


def test_the_list_is_this_one():
    assert set(habitus.__all__) == PUBLIC
    assert len(habitus.__all__) == len(PUBLIC)
    assert set(dir(habitus)) == PUBLIC


def test_editors_see_the_same_names():
    tree = ast.parse(Path(habitus.__file__).read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == habitus._HOMES
    assert set(seen) | {"__version__"} == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_each_name_resolves_and_says_what_it_is(name: str):
    value = getattr(habitus, name)
    assert inspect.isclass(value) or inspect.isfunction(value)
    assert value.__name__ == name
    own = value.__doc__ or ""
    assert len(own.split()) >= 4, f"habitus.{name} has no docstring that says what it does"
    assert getattr(habitus, name) is value


def test_an_unknown_name_lists_the_known():
    with pytest.raises(AttributeError, match=r"no attribute 'Shcema'.*Schema"):
        habitus.Shcema  # noqa: B018
