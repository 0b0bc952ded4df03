"""The one table, and what is made of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from clusterd.config.difference import _get
from clusterd.config.load import from_run
from clusterd.config.manual import engines_table, manual
from clusterd.config.settings import ANY, EACH, ENGINES, LATER, NAMED, TABLE, TYPES, Http, Settings, key_of
from clusterd.worker import abilities, boot
from tests.lacking import lacking


def test_every_field_has_a_row() -> None:
    """Each field of each table is a row, apart from what the file's name gives."""
    keys = {key_of(f) for f in fields(Settings)} - {"name", "file", "profile"} - TYPES.keys()
    keys |= {f"{table}.{key_of(f)}" for table, cls in TYPES.items() for f in fields(cls)}
    keys -= EACH.keys()
    keys |= {f"{table}.{ANY}.{key_of(f)}" for table, cls in EACH.items() for f in fields(cls)}
    assert keys == TABLE.keys()
    assert all(row.key == key for key, row in TABLE.items())


def test_defaults_in_words() -> None:
    """A default that the table tells as a value is the one a file without the key gets."""
    settings = from_run(app="a:b")
    for key, row in TABLE.items():
        if re.fullmatch(r'"[^"]*"|true|false', row.default) and key not in ("directory", "python"):
            value = row.kind.parse({"true": True, "false": False}.get(row.default, row.default.strip('"')))
            resolved = {"workers": settings.workers, "balance": "random", "reload.surge": None}.get(key, value)
            of_each = key.partition(".")[0] in EACH
            name = key.rpartition(".")[2].replace("-", "_")
            assert (getattr(EACH["task"](), name) if of_each else _get(settings, key)) == resolved, key


def test_frozen() -> None:
    """A configuration is a value: what was checked stays what it is."""
    with pytest.raises(FrozenInstanceError):
        from_run(app="a:b").workers = 5  # type: ignore[misc]  # the point


def test_later_keys_are_not_built() -> None:
    """A key is built or of a later release, not both."""
    assert not LATER.keys() & (TABLE.keys() | TYPES.keys())


def test_every_engine_is_asked_about_every_key() -> None:
    """The table of abilities speaks of all of [http], and of keys and engines that there are."""
    keys = {f"http.{key_of(f)}" for f in fields(Http)} | {"log.access", "tls"}
    assert set(abilities.LIMITS) == keys
    for key, engines in abilities.LIMITS.items():
        assert engines.keys() <= set(ENGINES), key


def test_each_key_has_an_engine() -> None:
    """No key is there that no engine can do."""
    for key in abilities.LIMITS:
        assert any(not abilities.in_words(key, engine).startswith("no") for engine in ENGINES), key


def test_defaults_are_the_workers() -> None:
    """The worker's side has the same keys and defaults: what differs from them is what is asked of the engine."""
    ours = {f.name: f.default for f in fields(Http)}
    assert ours == {f.name: f.default for f in fields(boot.Http)}


def test_page_of_engines_is_the_table() -> None:
    """docs/engines.md shows the table as it is."""
    page = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    table = page.split("engines -->")[1].partition("\n## ")[0]
    assert table.strip() == engines_table().strip()


def test_manual_has_every_key() -> None:
    """Each key of the table is in cluster.toml(5), under its table, with its default and how it takes effect."""
    page = manual().replace("\\-", "-")
    for key, row in TABLE.items():
        table, _, name = key.rpartition(".")
        section = page.split(f".SS [{table or key}]\n")[1] if table or key in NAMED else page.split(".SH KEYS\n")[1]
        entry = re.search(rf"^\.BR {'NAME' if key in NAMED else name} .*?(?=^\.TP|^\.S)", section, re.M | re.S)
        assert entry, key
        assert f"Default: {row.default}".split("\n")[0][:20] in entry[0], key


def test_manual_renders(tmp_path: Path) -> None:
    """man takes the page without a warning, and no line is wider than the terminal of 80 columns."""
    lacking(None if shutil.which("man") else "missing: man")
    page = tmp_path / "cluster.toml.5"
    page.write_text(manual())
    environment = {"PATH": "/usr/bin:/bin", "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
    done = subprocess.run(
        ["man", "--warnings", "-l", str(page)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "keep-alive" in done.stdout
