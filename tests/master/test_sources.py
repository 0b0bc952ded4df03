"""Where a master's settings come from, at its start and at each reload."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clusterd.config.load import Invalid, load
from clusterd.config.places import SYSTEM
from clusterd.config.settings import Tls
from clusterd.master.releases import Source

GOOD = 'app = "hello:app"\nlisten = "8000"\n'


def test_a_neighbour_with_the_same_address(tmp_path: Path) -> None:
    """It has the address of a file that systemd serves, and is nobody to a file that is run in the foreground."""
    for name in ("first", "second"):
        (tmp_path / f"{name}.toml").write_text(GOOD)
    file = str(tmp_path / "second.toml")
    place = SYSTEM._replace(runtime=str(tmp_path / "run"))
    assert Source(file, load(file)).load().name == "second"
    with pytest.raises(Invalid, match="'first' listens on"):
        Source(file, place=place).load()


@pytest.mark.parametrize("options", [["tls.certificate", "tls.key"], ["tls"]])
def test_options_win_at_each_reload(tmp_path: Path, options: list[str]) -> None:
    """What was given beside a file stays, key by key; all else is as the file has it now. "tls" is what a clusterd
    before this one has written down."""
    path = tmp_path / "hello.toml"
    path.write_text(GOOD)
    over = {
        "workers": 3,
        "listen": ["127.0.0.1:9000", "/run/x.sock"],
        "tls": {"certificate": "/b.pem", "key": "/b.key"},
    }
    given = replace(load(path, over=over), name="shop")
    source = Source(str(path), given, ["workers", "listen", "name", *options])
    path.write_text(
        GOOD + 'workers = 9\ndirectory = "/srv/new"\n[tls]\ncertificate = "/a.pem"\nminimum-version = "1.3"\n'
    )
    found = source.load()
    assert (found.name, found.workers, found.directory, found.listen) == ("shop", 3, "/srv/new", given.listen)
    assert found.tls == Tls("/b.pem", "/b.key", "1.3")
