from __future__ import annotations

import pytest

from .conftest import Site, error


@pytest.mark.parametrize("asked", ["4", "+1", "-2", "file"])
def test_scale(site: Site, asked: str) -> None:
    """What is asked goes to the master as it is, -2 too; how many there are is printed when it is so."""
    site.write("hello")
    master = site.master("hello")
    master.answers("Scale", {"parameters": {"workers": 4, "serving": 4, "problem": None}})
    assert site.run("scale", "hello", asked) == (0, "hello: 4 workers\n", "")
    assert master.asked("Scale") == [{"workers": asked}]


def test_one(site: Site) -> None:
    """The noun is right for one too."""
    site.write("hello")
    site.master("hello").answers("Scale", {"parameters": {"workers": 1, "serving": 1, "problem": None}})
    assert site.run("scale", "hello", "1") == (0, "hello: 1 worker\n", "")


@pytest.mark.parametrize("asked", ["", "x", "1.5", "++1", "99999", "auto", "-x"])
def test_what_is_no_number(site: Site, asked: str) -> None:
    """It is said in words, and the master is not asked."""
    site.write("hello")
    master = site.master("hello")
    found = site.run("scale", "hello", asked)
    assert found == (2, "", f"clusterd: expected a number of workers, +K, -K or 'file', found '{asked}'\n")
    assert not master.calls


def test_when_it_cannot_be(site: Site) -> None:
    """The number holds, and what is in its way is said with exit status 1."""
    site.write("hello")
    problem = {"workers": 8, "serving": 4, "problem": "worker 9 (slot 4): exited with status 1"}
    site.master("hello").answers("Scale", {"parameters": problem})
    assert site.run("scale", "hello", "8") == (
        1,
        "",
        "clusterd: hello: 4 of 8 workers serve: worker 9 (slot 4): exited with status 1\nhint: it goes on trying\n",
    )


def test_what_the_master_refuses(site: Site) -> None:
    """Its reason is printed, and the exit status is 1."""
    site.write("hello")
    reason = "expected 1 to 1024 workers, found 0; there are to be 1 now"
    site.master("hello").answers("Scale", error("Refused", reason=reason, detail=""))
    status, out, err = site.run("scale", "hello", "-1")
    assert (status, out) == (1, "") and err.startswith(f"clusterd: hello: scale refused: {reason}\n")
