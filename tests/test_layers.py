"""The road goes one way: a part imports only parts to its left, and light parts stay light."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "habitus"
ROAD = ("core", "data", "tokens", "metrics", "models", "training", "tasks", "apps", "serve", "cli")
BESIDE: dict[str, str] = {}  # cli starts the service, and nothing else may
ANYWHERE = {"testing"}  # public contract tests: outside the road, imported by nobody
HEAVY = {"torch", "lightning", "sklearn", "lightgbm", "plotly", "transformers", "scipy", "pandas", "holidays", "jinja2"}
LIGHT_PARTS = ("core", "data", "cli")


def modules() -> list[tuple[str, Path]]:
    """(dotted name, file) of every module of the package."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def imports(name: str, path: Path, *, top_level: bool = False) -> list[str]:
    """Dotted names of what a module imports; with `top_level`, only what is loaded with it."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = list(_loaded(tree.body)) if top_level else list(ast.walk(tree))
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written out in full"
            module = node.module or ""
            found += [module] + ([f"{module}.{alias.name}" for alias in node.names] if module == "habitus" else [])
    return [found_name for found_name in found if found_name != name]


def _loaded(body: list[ast.stmt]):
    """Statements that run on import: not inside functions, not under `if TYPE_CHECKING`."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            yield from _loaded(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            yield from _loaded(node.body + node.orelse + node.finalbody)
        elif isinstance(node, ast.ClassDef | ast.With):
            yield from _loaded(node.body)


def part(name: str) -> str | None:
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "habitus" and len(pieces) > 1 else None


def rank(name: str) -> int:
    return ROAD.index(BESIDE.get(name, name))


def test_modules_are_found_in_every_part():
    found = {part(name) for name, _ in modules()} - {None}
    assert found == {*ROAD, *BESIDE, *ANYWHERE}
    assert len(modules()) > 30


@pytest.mark.parametrize(("name", "path"), modules(), ids=[name for name, _ in modules()])
def test_a_module_imports_only_to_its_left(name: str, path: Path):
    own = part(name)
    if own is None or own in ANYWHERE:
        return
    for imported in imports(name, path):
        other = part(imported)
        if other is None or other == own or other == "__version__":
            continue
        assert other not in ANYWHERE, f"{name} imports {imported}, which is for tests"
        assert rank(other) < rank(own), f"{name} imports {imported}: {other} stands right of, or beside, {own}"


@pytest.mark.parametrize("light", LIGHT_PARTS)
def test_light_parts_load_nothing_heavy(light: str):
    chosen = [(name, path) for name, path in modules() if part(name) in (light, None)]
    assert len(chosen) > 1
    for name, path in chosen:
        heavy = {imported.split(".")[0] for imported in imports(name, path, top_level=True)} & HEAVY
        assert not heavy, f"{name} loads {', '.join(sorted(heavy))} at its top: import it where it is used"


def test_the_contract_of_import_linter_says_the_same():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    layers = config["contracts"][0]["layers"]
    expected = [
        " | ".join([f"habitus.{name}", *(f"habitus.{other}" for other, own in BESIDE.items() if own == name)])
        for name in reversed(ROAD)
    ]
    assert layers == expected
