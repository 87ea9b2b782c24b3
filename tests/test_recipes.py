"""Every recipe is a complete run, and its header says what to expect of it."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("**/*.toml"))


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_a_recipe_reads(path: Path):
    from habitus.apps.advisor.run import read_advisor_recipe
    from habitus.apps.bubble.run import read_bubble_recipe
    from habitus.apps.ctr.run import read_ctr_recipe
    from habitus.apps.ilora.study import read_ilora_recipe
    from habitus.apps.personas.settings import read_personas_recipe
    from habitus.tasks.event_recipe import read_recipe

    own = {
        "advisor": read_advisor_recipe,
        "bubble": read_bubble_recipe,
        "ctr": read_ctr_recipe,
        "ilora": read_ilora_recipe,
        "personas": read_personas_recipe,
    }
    text = path.read_text("utf-8")
    read = next((each for app, each in own.items() if f'app = "{app}"' in text), read_recipe)
    assert read(path).name == path.stem


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_its_header_says_what_to_expect_on_which_machine_and_when(path: Path):
    header = "\n".join(line for line in _header(path))
    expected = re.search(r"^# Expected:(.*(?:\n#  .*)*)", header, re.MULTILINE)
    assert expected, f"{path.name}: a header line '# Expected: ...' with figures"
    assert re.search(r"\d\.\d|\.\d|\d %|\d s\b|\d min", expected[1]), f"{path.name}: '# Expected:' names no figure"
    hardware = re.search(r"^# Hardware: (.+)", header, re.MULTILINE)
    assert hardware, f"{path.name}: a header line '# Hardware: ...'"
    date = re.search(r"^# Date: (\S+)", header, re.MULTILINE)
    assert date, f"{path.name}: a header line '# Date: YYYY-MM-DD'"
    dt.date.fromisoformat(date[1])


def _header(path: Path):
    """The comment lines at the top."""
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            return
        yield line
