from __future__ import annotations

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
