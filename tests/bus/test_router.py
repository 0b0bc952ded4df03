"""Who hears what, who is told of what it does not hear, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clusterd.bus.queue import Queue
from clusterd.bus.retained import Table
from clusterd.bus.router import BRIDGE, Broken, Router


def cluster(*ids: int, topics: tuple[str, ...] = ("t",)) -> Router:
    router = Router(Table())
    for id in ids:
        router.join(id)
        for topic in topics:
            say(router, id, op="on", topic=topic)
    return router


def say(router: Router, sender: int, **message: Any) -> None:
    router.take(sender, json.dumps(message).encode())


def heard(router: Router, id: int) -> list[Any]:
    found = []
    while (frame := router.next(id)) is not None:
        assert frame.endswith(b"\0")
        found.append(json.loads(frame[:-1]))
    return found


def test_broadcast() -> None:
    """Everybody who listens to the topic hears it, with its sender, the sender not; in the order it was said."""
    router = cluster(1, 2, 3)
    router.join(4)
    for n in range(3):
        say(router, 1, op="broadcast", topic="t", data=n)
    expected = [{"from": 1, "op": "broadcast", "topic": "t", "data": n} for n in range(3)]
    assert [heard(router, id) for id in (1, 2, 3, 4)] == [[], expected, expected, []]
    say(router, 2, op="off", topic="t")
    say(router, 1, op="broadcast", topic="t", data="x")
    assert (heard(router, 2), len(heard(router, 3))) == ([], 1)


def test_send() -> None:
    """One worker hears it, and nobody when it is not there: at most once."""
    router = cluster(1, 2)
    say(router, 1, op="send", to=2, topic="t", data={"ü": [None]})
    say(router, 1, op="send", to=9, topic="t", data=1)
    assert heard(router, 2) == [{"from": 1, "op": "send", "to": 2, "topic": "t", "data": {"ü": [None]}}]


def test_bytes_are_passed_on_as_they_came() -> None:
    """Nothing is encoded again, so that nothing grows on the way: not numbers, not letters."""
    router = cluster(1, 2)
    router.take(1, ' {"op":"broadcast","topic":"t","data":[1e5,"é","\\u00e9"]}'.encode())
    assert router.next(2) == '{"from":1,"op":"broadcast","topic":"t","data":[1e5,"é","\\u00e9"]}\0'.encode()


def test_request() -> None:
    """The answer goes to who asked, from who was asked, and from nobody else."""
    router = cluster(1, 2, 3)
    say(router, 1, op="request", to=2, topic="t", data=1, number=5)
    say(router, 3, op="answer", to=1, number=5, data="forged")
    say(router, 2, op="answer", to=1, number=5, data="true")
    assert heard(router, 1) == [{"from": 2, "op": "answer", "to": 1, "number": 5, "data": "true"}]
    say(router, 2, op="answer", to=1, number=6, error="asked while another master was there")
    assert heard(router, 1)[0]["number"] == 6


def test_request_that_nobody_answers() -> None:
    """Who asks is told at once: no such worker, no handler, or the worker has left."""
    router = cluster(1, 2)
    say(router, 1, op="request", to=9, topic="t", data=1, number=1)
    say(router, 1, op="request", to=2, topic="other", data=1, number=2)
    say(router, 1, op="request", to=2, topic="t", data=1, number=3)
    say(router, 1, op="request", to=2, topic="t", data=1, number=4)
    say(router, 1, op="forget", number=4)
    router.leave(2)
    found = heard(router, 1)
    assert [(f["number"], f["error"]) for f in found] == [(1, "gone"), (2, "unheard"), (3, "gone")]
    assert [f["text"] for f in found] == [
        "there is no worker 9 with messages",
        "worker 2 has no handler for 'other'",
        "worker 2 left before it answered",
    ]


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (b"[]", "not a JSON object"),
        (b'{"op":"broadcast","topic":"t","data":NaN}', "not a JSON object"),
        (b'{"op":"broadcast","topic":"t","data":1e999}', "not a JSON object"),
        (b'{"op":"send","topic":"t","data":1,"to":%s}' % (b"[" * 600 + b"]" * 600), "not a JSON object"),
        (b'{"op":"exec"}', "op 'exec': expected one of on, off"),
        (b'{"op":["on"]}', "expected one of"),
        (b'{"op":"broadcast","topic":"t"}', "has 'data'"),
        (b'{"op":"broadcast","topic":"","data":1}', "1 to 128 bytes, found 0"),
        (b'{"op":"on","topic":"a\\nb"}', "printable"),
        (b'{"op":"broadcast","topic":"t","data":1,"from":3}', "'from'"),
        (b'{"op":"send","topic":"t","data":1,"to":true}', "'to': expected a number"),
        (b'{"op":"request","topic":"t","data":1,"to":1,"number":1e3}', "'number': expected a number"),
        (b'{"op":"answer","to":1,"number":1}', "'data', or 'error'"),
        (b'{"op":"publish","number":1,"key":"k"}', "has 'value'"),
    ],
)
def test_what_is_refused(frame: bytes, text: str) -> None:
    """What is not the protocol is told in words, and changes nothing."""
    router = cluster(1, 2)
    with pytest.raises(Broken, match=text):
        router.take(1, frame)
    assert heard(router, 2) == [] and router.said == []


def test_values() -> None:
    """Who asks for the values gets all, the end of all, and then each change; the publisher's own before its "done"."""
    router = cluster(1, 2)
    say(router, 1, op="publish", key="a", value=[1], number=1)
    assert heard(router, 1) == [{"event": "done", "number": 1, "version": 1}]
    say(router, 2, op="values")
    current = [{"event": "value", "version": 1, "key": "a", "value": [1]}, {"event": "current", "version": 1}]
    assert heard(router, 2) == current
    say(router, 2, op="publish", key="ü", value=None, number=7)
    assert [m.get("key", m["event"]) for m in heard(router, 2)] == ["ü", "done"]
    assert router.writes


def test_a_publisher_has_its_value_when_it_is_done() -> None:
    """Also one that has only just asked for the values, as after another master, and one that reads slowly: it gets
    what it has missed before, in order, and the end of all."""
    router = cluster(1, 2)
    say(router, 1, op="publish", key="a", value=1, number=1)
    say(router, 2, op="values")
    say(router, 2, op="publish", key="b", value=2, number=1)
    assert [(m["event"], m["version"]) for m in heard(router, 2)] == [
        ("value", 1), ("value", 2), ("current", 2), ("done", 2)
    ]  # fmt: skip
    router.members[2].queue = Queue(limit=100)
    for n in range(9):
        say(router, 1, op="publish", key="a", value=n, number=n)
    say(router, 2, op="publish", key="b", value="last", number=2)
    say(router, 1, op="publish", key="a", value="later", number=9)
    found = heard(router, 2)
    done = found.index({"event": "done", "number": 2, "version": 12})
    assert {m["key"]: m["value"] for m in found[:done]} == {"a": 8, "b": "last"}
    assert [m["value"] for m in found[done + 1 :]] == ["later"]
    assert [m["version"] for m in found] == sorted(m["version"] for m in found)


def test_a_value_is_not_lost_to_a_slow_reader() -> None:
    """A reader that has missed changes gets the last value of each key when it reads again, and nothing twice."""
    router = cluster(1, 2)
    router.members[2].queue = Queue(limit=100)
    say(router, 2, op="values")
    heard(router, 2)
    for n in range(50):
        say(router, 1, op="publish", key="ab"[n % 2], value=n, number=n)
    found = heard(router, 2)
    versions = [m["version"] for m in found]
    assert versions == sorted(set(versions)) and len(versions) < 10
    assert {m["key"]: m["value"] for m in found} == {"a": 48, "b": 49}


def test_a_value_too_many_is_refused() -> None:
    """Who publishes beyond a bound is told which, and the value before stays."""
    router = Router(Table(1000, keys=1))
    router.join(1)
    say(router, 1, op="publish", key="a", value=1, number=1)
    say(router, 1, op="publish", key="b", value=1, number=2)
    assert [m["event"] for m in heard(router, 1)] == ["done", "failed"]
    assert router.table.values.keys() == {"a"}


def test_from_outside() -> None:
    """What `clusterd send` says has no sender; it is told how many hear it."""
    router = cluster(1, 2)
    assert router.outside("t", '{"a": 1}', None) == 2
    assert router.outside("t", "1", 2) == 1
    assert router.outside("other", "1", None) == 0
    assert [m["op"] for m in heard(router, 2)] == ["broadcast", "send"]
    assert heard(router, 1) == [{"from": None, "op": "broadcast", "topic": "t", "data": {"a": 1}}]


def test_a_slow_reader_is_its_own_affair() -> None:
    """One that does not read loses messages and is told; the others hear everything."""
    router = cluster(1, 2, 3)
    router.members[2].queue = Queue(limit=200)
    for n in range(10):
        say(router, 1, op="broadcast", topic="t", data=n)
    assert router.slow == [2]
    assert [m["data"] for m in heard(router, 3)] == list(range(10))
    *some, last = heard(router, 2)
    assert last == {"event": "lost", "count": 10 - len(some)} and some


def across(*ids: int) -> Router:
    """With a bridge that has been given the values."""
    router = cluster(*ids)
    router.join(BRIDGE)
    say(router, BRIDGE, op="values")
    heard(router, BRIDGE)
    return router


def test_the_bridge_hears_every_broadcast() -> None:
    """Of workers and from outside, whatever the topic; not what is said to one worker, and nothing of its own."""
    router = across(1, 2)
    say(router, 1, op="broadcast", topic="nobody's", data=1)
    say(router, 1, op="send", to=2, topic="t", data=2)
    assert router.outside("t", "3", None) == 2
    assert router.outside("t", "4", 1) == 1
    say(router, BRIDGE, op="say", host="b", topic="t", data=5)
    assert [m["data"] for m in heard(router, BRIDGE)] == [1, 3]
    assert [m["data"] for m in heard(router, 2)] == [2, 3, 5]
    assert router.said[-1].host == "b" and router.said[-1].sender is None


def test_other_hosts_say_who_they_are() -> None:
    """A worker is told the host, and no sender: it could not answer."""
    router = across(1)
    say(router, BRIDGE, op="say", host="b", topic="t", data=[1])
    assert heard(router, 1) == [{"from": None, "host": "b", "op": "broadcast", "topic": "t", "data": [1]}]


def test_values_of_other_hosts() -> None:
    """Workers get them, the bridge is answered and not told them again; its own are new until it says otherwise."""
    router = across(1)
    say(router, 1, op="values")
    heard(router, 1)
    say(router, BRIDGE, op="retain", key="k", value=1, number=7)
    assert [(m["key"], m["value"]) for m in heard(router, 1) if m["event"] == "value"] == [("k", 1)]
    assert heard(router, BRIDGE) == [{"event": "done", "number": 7, "version": 1}]
    say(router, 1, op="publish", key="k", value=2, number=1)
    (told,) = heard(router, BRIDGE)
    assert (told["value"], told["new"]) == (2, True)
    say(router, BRIDGE, op="synced", key="k", version=1)
    assert router.dirty == {"k"}, "another version than the one that is new"
    say(router, BRIDGE, op="synced", key="k", version=told["version"])
    assert not router.dirty
    say(router, BRIDGE, op="values")
    assert [m["new"] for m in heard(router, BRIDGE) if m["event"] == "value"] == [False]


def test_what_the_table_cannot_take_is_refused() -> None:
    """A value of another host's as one of a worker's: with the reason."""
    router = across(1)
    router.table = Table(keys=1)
    say(router, 1, op="publish", key="a", value=1, number=1)
    heard(router, BRIDGE)
    say(router, BRIDGE, op="retain", key="b", value=1, number=2)
    (failed,) = heard(router, BRIDGE)
    assert (failed["event"], failed["number"], failed["error"]) == ("failed", 2, "refused")


@pytest.mark.parametrize("op", ["say", "retain", "synced", "state", "lease"])
def test_a_worker_is_no_bridge(op: str) -> None:
    """Nor can a bridge do what workers do."""
    router = across(1)
    with pytest.raises(Broken, match="expected one of"):
        say(router, 1, op=op, host="b", topic="t", data=1, key="k", value=1, number=1, version=1)
    with pytest.raises(Broken, match="expected one of"):
        say(router, BRIDGE, op="publish", key="k", value=1, number=1)
