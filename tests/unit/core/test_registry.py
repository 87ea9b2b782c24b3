"""Every name in the registry leads to something."""

import pytest

from habitus.core.errors import ConfigError, ExtraError, require
from habitus.core.registry import MODELS, SOURCES, resolve


@pytest.mark.parametrize(("table", "name"), [(t, n) for t in (MODELS, SOURCES) for n in t])
def test_every_name_leads_somewhere(table, name):
    assert callable(resolve(table, name, kind="thing"))


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'lumos'"):
        resolve(MODELS, "lumoss", kind="model")


def test_an_absent_extra_names_its_install_command():
    with pytest.raises(ExtraError, match=r"pip install .habitus\[llm\]"):
        require("no_such_package_at_all", "llm")
