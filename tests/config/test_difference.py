"""What changed between two configurations, and Settings as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.config.addresses import Address, parse
from clusterd.config.difference import difference, from_json, how, needing, to_json
from clusterd.config.settings import Health, Http, Limits, Log, Reload, Restart, Sandbox, Settings, Stop, Tls

BASE = Settings(name="hello", app="hello:app", directory="/srv/hello", listen=(parse("8000"),), workers=4)

times = st.floats(0, 1e4, allow_nan=False)
texts = st.text(max_size=8)
addresses = st.one_of(
    st.builds(Address, st.just("tcp"), texts, st.integers(1, 65535)),
    st.builds(
        lambda p, m, g: Address("unix", path=p, mode=m, group=g), texts, st.integers(0, 0o777), st.none() | texts
    ),
)
settings = st.builds(
    Settings,
    name=texts,
    file=st.none() | texts,
    app=st.none() | texts,
    command=st.none() | st.lists(texts, min_size=1).map(tuple),
    ready=st.just("notify") | times,
    listen=st.lists(addresses, max_size=3).map(tuple),
    env=st.dictionaries(texts, texts, max_size=3),
    http=st.builds(Http, times, st.lists(texts, max_size=3).map(tuple), texts, st.none() | st.integers(1, 9)),
    tls=st.builds(Tls, st.none() | texts, st.none() | texts),
    reload=st.builds(Reload, st.none() | st.integers(1, 9), times, times, times, times, times, st.just("force")),
    stop=st.builds(Stop, times),
    restart=st.builds(Restart, times, times),
    health=st.builds(Health, st.none() | texts),
    log=st.builds(Log, st.booleans()),
    sandbox=st.builds(
        Sandbox,
        write=st.lists(texts, max_size=2).map(tuple),
        network=st.just("local") | st.lists(texts, max_size=2).map(tuple),
        jit=st.booleans(),
    ),
    limits=st.builds(Limits, memory=st.none() | texts, tasks=st.none() | st.integers(16, 99)),
    credentials=st.dictionaries(texts, texts, max_size=2),
)


@given(settings)
def test_round_trip(made: Settings) -> None:
    """Settings are the same after JSON: the next master goes on with what this one has."""
    assert from_json(json.loads(json.dumps(to_json(made)))) == made


def test_other_releases() -> None:
    """The Settings an older or a newer master wrote are read: what is missing has its default, the rest is left out."""
    made: dict[str, Any] = to_json(BASE)
    made |= {"new": 1, "table": {"cert": "x"}}
    made["http"]["new"] = 1
    made["listen"][0]["new"] = 1
    del made["restart"], made["balance"], made["reload"]["soak"]
    assert from_json(made) == BASE


@given(settings, settings)
def test_difference(old: Settings, new: Settings) -> None:
    """There is a difference exactly where there is one, whatever the names of instance and file."""
    assert difference(old, old) == []
    assert bool(difference(old, new)) == (replace(old, name="", file=None) != replace(new, name="", file=None))
    assert [c.key for c in difference(old, new)] == [c.key for c in difference(new, old)]


@pytest.mark.parametrize(
    ("new", "text", "applies"),
    [
        ({"workers": 8}, "workers: 4 -> 8", "reload"),
        ({"reload": Reload(soak=0.5)}, "reload.soak: 2s -> 500ms", "reload"),
        ({"reload": Reload(surge=1)}, "reload.surge: none -> 1", "reload"),
        ({"http": Http(max_body_size=3 << 20)}, "http.max-body-size: none -> 3M", "reload"),
        ({"tls": Tls(minimum_version="1.3")}, "tls.minimum-version: 1.2 -> 1.3", "reload"),
        ({"health": Health("/x")}, "health.path: none -> /x", "reload"),
        ({"log": Log(access=True)}, "log.access: false -> true", "reload"),
        ({"directory": "/srv/x"}, "directory: /srv/hello -> /srv/x", "reload"),
        ({"directory": "/home/x"}, "directory: /srv/hello -> /home/x", "restart"),
        ({"user": "www-data"}, "user: none -> www-data", "restart"),
        ({"slots": 32}, "slots: 16 -> 32", "socket restart"),
        ({"sandbox": Sandbox(write=("/a", "/b"))}, "sandbox.write: none -> /a /b", "restart"),
        ({"sandbox": Sandbox(network="local")}, "sandbox.network: full -> local", "restart"),
        ({"limits": Limits(memory="1G")}, "limits.memory: none -> 1G", "daemon-reload"),
        ({"limits": Limits(nofile=2048)}, "limits.nofile: none -> 2048", "restart"),
        ({"credentials": {"db": "/etc/x"}}, "credentials.db: none -> /etc/x", "restart"),
        (
            {"listen": (parse("80"), parse({"path": "/x", "group": "g"}))},
            "listen: [::]:8000 -> [::]:80 /x (0660 root:g)",
            "socket restart",
        ),
    ],
)
def test_applies(new: dict[str, Any], text: str, applies: str) -> None:
    """Each change is told with both values in words, and what it takes."""
    (change,) = difference(BASE, replace(BASE, **new))
    assert (change.text, change.applies) == (text, applies)


def test_variables() -> None:
    """Variables are told by name; no value is ever in a Change."""
    old = replace(BASE, env={"KEPT": "s3cret", "CHANGED": "s3cret", "GONE": "s3cret"})
    new = replace(BASE, env={"KEPT": "s3cret", "CHANGED": "s3cret2", "NEW": "s3cret"})
    changes = difference(old, new)
    assert [c.text for c in changes] == [
        "env.CHANGED: set -> changed",
        "env.GONE: set -> absent",
        "env.NEW: absent -> set",
    ]
    assert "s3cret" not in repr(changes)


def test_how() -> None:
    """The strongest of the changes decides the command that brings all of them into effect."""
    reload, restart, sockets = (
        difference(BASE, replace(BASE, **{key: value}))  # type: ignore[arg-type]  # one key each
        for key, value in {"workers": 8, "user": "x", "slots": 1}.items()
    )
    assert how("hello", []) == ""
    assert how("hello", reload) == "systemctl reload cluster@hello"
    assert how("hello", reload + restart) == "systemctl daemon-reload && systemctl restart cluster@hello"
    assert how("hello", sockets + restart + reload) == "clusterd stop hello && clusterd start hello"
    assert needing(reload + restart + sockets) == restart + sockets
    assert needing(reload + restart + sockets, "reload") == reload
