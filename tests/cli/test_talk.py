from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest

from clusterd.cli import succession
from clusterd.shell.interface import MAX_REQUEST

from .conftest import Reply, Site, error


def heard(count: int) -> Reply:
    return {"parameters": {"heard": count}}


def said(data: str, **more: Any) -> Reply:
    message = {"topic": "t", "data": data, "from": 17} | more.pop("message", {})
    return {"parameters": {"message": message, **more}, "continues": True}


@pytest.mark.parametrize(
    ("count", "words"), [(0, "no worker"), (1, "1 worker"), (2, "2 workers")], ids=["none", "one", "two"]
)
def test_send(site: Site, count: int, words: str) -> None:
    """The JSON goes to the master compact, and how many heard it is printed; that nobody did is no failure."""
    site.write("hello")
    master = site.master("hello")
    master.answers("Send", heard(count))
    assert site.run("send", "hello", "t", '{"a": [1, "ä"]}') == (0, f"hello: heard by {words}\n", "")
    assert master.asked("Send") == [{"topic": "t", "data": '{"a":[1,"ä"]}'}]


def test_send_a_negative_number(site: Site) -> None:
    """What begins with '-' and is no option is JSON, before the options and behind them."""
    site.write("hello")
    master = site.master("hello")
    master.answers("Send", heard(1))
    assert site.run("send", "hello", "t", "-5")[0] == 0
    assert site.run("send", "hello", "t", "--worker", "17", "-5")[0] == 0
    assert master.asked("Send") == [{"topic": "t", "data": "-5"}, {"topic": "t", "data": "-5", "worker": "17"}]


def test_send_to_one(site: Site) -> None:
    """With --worker one worker is meant, and that it did not hear is exit status 1."""
    site.write("hello")
    master = site.master("hello")
    master.answers("Send", heard(1))
    assert site.run("send", "hello", "t", "1", "--worker", "17")[0] == 0
    assert master.asked("Send") == [{"topic": "t", "data": "1", "worker": "17"}]
    master.answers("Send", heard(0))
    status, out, err = site.run("send", "hello", "t", "1", "--worker", "18")
    assert (status, out) == (1, "")
    assert err == "clusterd: hello: worker 18 does not listen to 't', or there is none\nhint: clusterd status hello\n"


def test_send_from_standard_input(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "-" reads the JSON, which is UTF-8 whatever the locale."""
    site.write("hello")
    master = site.master("hello")
    master.answers("Send", heard(1))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO('"ä"\n'.encode()), encoding="ascii"))
    assert site.run("send", "hello", "t", "-")[0] == 0
    assert master.asked("Send") == [{"topic": "t", "data": '"ä"'}]


@pytest.mark.parametrize(
    ("topic", "data", "text", "hint"),
    [
        ("t", "hello", "'hello' is not JSON", """a text needs its quotes within the shell's: '"hello"'"""),
        ("t", '1,"data":2', """'1,"data":2' is not JSON""", "a text needs its quotes"),
        ("t", "NaN", "'NaN' is not JSON", "a text needs its quotes"),
        ("t", "[" * 100_000, "[[[... is not JSON".replace("...", "...'"), "a text needs its quotes"),
        ("", "1", "topic '': expected 1 to 128 bytes, found 0", ""),
        ("a\nb", "1", r"topic 'a\nb': expected printable characters only", ""),
        ("t", f'"{"x" * MAX_REQUEST}"', f"JSON of {MAX_REQUEST + 6} bytes: expected at most ", "16 MiB"),
    ],
    ids=["text", "two", "nan", "deep", "no-topic", "newline", "large"],
)  # fmt: skip
def test_what_cannot_be_sent(site: Site, topic: str, data: str, text: str, hint: str) -> None:
    """What is wrong is said in words, exit status 2, and the master is not asked."""
    site.write("hello")
    master = site.master("hello")
    status, out, err = site.run("send", "hello", topic, data)
    assert (status, out, master.calls) == (2, "", [])
    assert text in err and hint in err and len(err) < 300


def test_not_allowed(site: Site) -> None:
    """Who may not change the instance may not send either: exit status 5."""
    site.write("hello")
    site.master("hello").answers("Send", error("NotAllowed", text="Send is for root and the service's user"))
    status, _, err = site.run("send", "hello", "t", "1")
    assert status == 5 and err.endswith("hint: run it as root\n")


def test_an_older_master(site: Site) -> None:
    """The master of an older clusterd has no such method, and that is said."""
    site.write("hello")
    site.master("hello")
    assert site.run("send", "hello", "t", "1") == (1, "", "clusterd: hello: its master has no method Send\n")


def test_listen(site: Site) -> None:
    """Each message is a line of JSON, until as many as --count were shown; what was lost is told beside."""
    site.write("hello")
    master = site.master("hello")
    first = {"parameters": {}, "continues": True}
    master.answers("Listen", first, said('{"a":1}'), said("2", lost=3, message={"to": 18, "from": None}), said("3"))
    status, out, err = site.run("listen", "hello", "t", "--count", "2")
    assert status == 0
    assert [json.loads(line) for line in out.splitlines()] == [
        {"topic": "t", "from": 17, "data": {"a": 1}},
        {"topic": "t", "from": None, "to": 18, "data": 2},
    ]
    assert err == "clusterd: 3 messages were lost: they were not read fast enough\n"
    assert master.asked("Listen") == [{"topic": "t"}]


def test_listen_to_the_next_master(site: Site) -> None:
    """A master that goes away is followed by the next; both are told, for something may have been missed."""
    site.write("hello")
    master = site.master("hello")
    first: Reply = {"parameters": {}, "continues": True}
    turns = iter([[first, said("1"), None], [first, said("2")]])
    master.scripts["Listen"] = lambda _: iter(next(turns))
    status, out, err = site.run("listen", "hello", "t", "-n", "2")
    assert (status, [json.loads(line)["data"] for line in out.splitlines()]) == (0, [1, 2])
    assert [line.partition("hello: ")[2] for line in err.splitlines()] == [
        "the master went away; what is said now is missed",
        "listening again, to another master",
    ]


def test_listen_until_the_service_stops(site: Site) -> None:
    """The end of the service is exit status 7; one that does not run is 4."""
    site.write("hello")
    assert site.run("listen", "hello", "t")[0] == 4
    master = site.master("hello")
    master.answers("Listen", {"parameters": {}, "continues": True}, error("Stopping"))
    assert site.run("listen", "hello", "t")[0] == 7


def test_listen_in_vain(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no other master comes it is given up."""
    monkeypatch.setattr(succession, "SUCCESSION", 0.0)
    site.write("hello")
    site.master("hello").answers("Listen", None)
    status, _, err = site.run("listen", "hello", "t")
    assert status == 4 and "the master went away during the call" in err
