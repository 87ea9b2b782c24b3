"""Keys and limits as the operator writes them."""

from __future__ import annotations

import pytest

from habitus.core.errors import ConfigError
from habitus.serve.config import ServeConfig, read_keys


def test_keys_come_from_file_and_environment_and_are_never_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("HABITUS_KEYS", "environment-key-1, environment-key-2")
    file = tmp_path / "keys"
    file.write_text("# the shop\nfile-key-of-length-20\n\n")
    keys = read_keys(file)
    assert keys == ("environment-key-1", "environment-key-2", "file-key-of-length-20")
    assert "file-key" not in repr(ServeConfig.parse({"keys": keys}))


@pytest.mark.parametrize(("text", "found"), [("short\n", "shorter"), ("# none\n", "none")])
def test_poor_keys_are_refused_without_being_repeated(tmp_path, monkeypatch, text, found):
    monkeypatch.delenv("HABITUS_KEYS", raising=False)
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError, match=found) as error:
        read_keys(file)
    assert "short\n" not in str(error.value)
