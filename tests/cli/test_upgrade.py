from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from clusterd.cli import succession, upgrade

from .conftest import Site, error


def test_usage(site: Site) -> None:
    """One instance, or all of them: never none, never both."""
    site.write("hello")
    for words in ((), ("hello", "--all")):
        assert site.run("upgrade", *words) == (2, "", "clusterd: expected either NAME or --all\n")


def test_refused(site: Site) -> None:
    """What is in the way of the files on disk is said, and the exit status is 1; --all goes on with the others."""
    site.write("hello")
    site.write("other")
    site.master("hello").answers("Upgrade", error("Refused", reason="the clusterd now on disk cannot: no", detail=""))
    status, out, err = site.run("upgrade", "hello")
    assert (status, out) == (1, "")
    assert err.startswith("clusterd: hello: upgrade refused: the clusterd now on disk cannot: no\n")
    status, out, err = site.run("upgrade", "--all")
    assert (status, out) == (1, "") and err.endswith("clusterd: 1 not upgraded\n")


def test_one_that_does_not_come_to_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload that takes long, or somebody who answers everything but this: the others wait for it so long only."""
    monkeypatch.setattr(upgrade, "LIMIT", 2.0)
    for name in ("hello", "other"):
        site.write(name)
    busy, free = site.master("hello"), site.master("other")

    def never(_: dict[str, Any]) -> Iterator[None]:
        busy.ended.wait()
        yield None

    busy.scripts["Upgrade"] = never
    free.answers("Upgrade", error("Refused", reason="no", detail=""))
    status, out, err = site.run("upgrade", "--all")
    assert (status, out) == (1, "") and len(free.asked("Upgrade")) == 1
    assert "clusterd: hello: not upgraded within 2 s; its master has been asked, and will when it can\n" in err
    assert err.endswith("clusterd: 2 not upgraded\n")


def test_a_master_that_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has let itself be asked and does not go: that is exit status 4, within a bounded time."""
    monkeypatch.setattr(succession, "SUCCESSION", 0.3)
    site.write("hello")
    site.master("hello").answers("Upgrade", {"parameters": {}})
    status, out, err = site.run("upgrade", "hello")
    assert (status, out) == (4, "") and "clusterd: hello: no other master within 0.3 s\n" in err


def test_a_master_without_a_successor(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has left for one that does not come: no other is a failure, also with --all, which passes over who does not
    run."""
    monkeypatch.setattr(succession, "SUCCESSION", 0.3)
    for name in ("hello", "idle"):
        site.write(name)
    master = site.master("hello")

    def leave(_: dict[str, Any]) -> Iterator[None]:
        master.path.unlink()
        yield None

    master.scripts["Upgrade"] = leave
    status, out, err = site.run("upgrade", "--all")
    assert (status, out) == (1, "") and "clusterd: hello: no other master within 0.3 s\n" in err
    assert err.endswith("clusterd: 1 not upgraded\n")
