"""`clusterd reload NAME --host HOST`, with a systemctl of the tests'; the real one over ssh is in tests/systemd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Site

Tools = Callable[[str, str], Path]

SYSTEMCTL = """
case "$1 $2" in
    "--host=gone show") echo "Failed to connect to bus: Host is down"; exit 1 ;;
    "--host=idle show") echo inactive ;;
    *" show") case "$3" in *StatusText*) echo "2/2 workers, generation 4" ;; *) echo active ;; esac ;;
    "--host=bad reload") echo "Job for cluster@shop.service failed."; exit 1 ;;
esac
"""


def asked(log: Path) -> list[str]:
    """Whom it was asked to reload, in this order."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split()[1].removeprefix("--host=") for line in lines if " reload " in line]


def test_one_after_another(site: Site, tools: Tools) -> None:
    """Every host in turn, each with what its application says then; the application need not be known here."""
    log = tools("systemctl", SYSTEMCTL)
    status, out, err = site.run("reload", "shop", "--host", "a", "--host", "root@b:2222")
    assert (status, err) == (0, "")
    assert out == "shop: a: 2/2 workers, generation 4\nshop: root@b:2222: 2/2 workers, generation 4\n"
    assert asked(log) == ["a", "root@b:2222"]
    assert "reload -- cluster@shop.service" in log.read_text()


def test_the_first_failure_is_the_last(site: Site, tools: Tools) -> None:
    """Those after it are left alone, and it is said which were done and which not begun."""
    log = tools("systemctl", SYSTEMCTL)
    status, out, err = site.run("reload", "shop", "--host", "a", "--host", "bad", "--host", "c")
    assert (status, asked(log)) == (1, ["a", "bad"])
    assert out == "shop: a: 2/2 workers, generation 4\n"
    assert err == (
        "clusterd: shop: bad: reload failed: 2/2 workers, generation 4; done before: a; not begun: c\n"
        "hint: ssh bad journalctl -u cluster@shop\n"
    )


@pytest.mark.parametrize(
    ("host", "why"),
    [("gone", "Failed to connect to bus: Host is down"), ("idle", "cluster@shop.service is inactive")],
    ids=["gone", "idle"],
)
def test_all_are_asked_first(site: Site, tools: Tools, host: str, why: str) -> None:
    """A host that cannot be reached, or does not run the application, is found before the first is reloaded."""
    log = tools("systemctl", SYSTEMCTL)
    status, _, err = site.run("reload", "shop", "--host", "a", "--host", host)
    assert (status, asked(log)) == (4, [])
    assert err == f"clusterd: shop: {host}: {why}; nothing was reloaded\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("shop", "--host", "a", "--host", "a"), "--host 'a' is given twice"),
        (("shop", "--host", "-oProxyCommand=x"), "--host '-oProxyCommand=x': expected what ssh takes"),
        (("shop", "--host", "a b"), "--host 'a b': expected what ssh takes"),
        (("shop", "--host", "a", "--profile", "x"), "--profile: choose it on each host"),
        (("/run/x/control", "--host", "a"), "--host: expected the name of an application of the system's"),
    ],
    ids=["twice", "option", "two", "profile", "socket"],
)
def test_what_is_refused(site: Site, tools: Tools, arguments: tuple[str, ...], text: str) -> None:
    """In words, exit status 2, and nothing is asked of anybody."""
    log = tools("systemctl", SYSTEMCTL)
    status, _, err = site.run("reload", *arguments)
    assert status == 2 and text in err and not log.exists()
