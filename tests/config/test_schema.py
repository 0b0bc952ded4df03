"""The JSON Schema agrees with the parser, by a validator nobody here wrote."""

from __future__ import annotations

import json
import re
import string
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd.config.load import Invalid
from clusterd.config.reader import read
from clusterd.config.schema import schema, text
from clusterd.config.settings import ANY, TABLE
from clusterd.config.values import UNITS

PROJECT = Path(__file__).resolve().parents[2]
SCHEMA = schema()
CHECK = jsonschema.Draft7Validator(SCHEMA)


def complaints(table: dict[str, Any]) -> list[str]:
    return [error.message for error in CHECK.iter_errors(table)]


def accepted(table: dict[str, Any]) -> bool:
    try:
        read("hello", None, table)
    except Invalid:
        return False
    return True


def files() -> list[tuple[str, str]]:
    """Every whole file among the examples and in the pages: one that says what to run, and where it listens."""
    found = [(str(path.relative_to(PROJECT)), path.read_text()) for path in PROJECT.glob("examples/*/*.toml")]
    for page in [PROJECT / "README.md", *PROJECT.glob("docs/*.md")]:
        blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", page.read_text(), re.MULTILINE)
        for block in blocks:
            # a listing of files may stand above it
            plain = re.sub("(?m)^    ", "", block)
            start = re.search("^(app|command|listen) =", plain, re.M)
            found += [(f"{page.name}: {plain[start.start() :][:40]!r}", plain[start.start() :])] if start else []
    return [(where, each) for where, each in found if re.search(r"^(app|command) =", each, re.M) and "listen" in each]


@pytest.mark.parametrize(("where", "toml"), files(), ids=[where for where, _ in files()])
def test_ours_are_valid(where: str, toml: str) -> None:
    """Every example, and every whole file in a page, is valid by the schema and by the parser."""
    table = tomllib.loads(toml)
    assert complaints(table) == []
    assert accepted(table)


def test_is_a_schema() -> None:
    """It is a schema of the draft it names, and JSON."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert json.loads(text()) == json.loads(json.dumps(SCHEMA)) and SCHEMA["$schema"].endswith("draft-07/schema#")


def test_every_key_has_a_shape_and_words() -> None:
    """Each setting is in the schema with its words, and says more of its value than that there is one."""
    for key, row in TABLE.items():
        table, _, name = key.rpartition(".")
        if table.endswith(f".{ANY}"):
            of = SCHEMA["properties"][table.removesuffix(f".{ANY}")]["additionalProperties"]
            at = of["properties"][name]
        else:
            at = SCHEMA["properties"][table]["properties"][name] if table else SCHEMA["properties"][name]
        assert at["description"].startswith(row.doc), key
        assert set(at) & {"type", "enum", "anyOf"}, f"{key}: give its Kind a schema"
        assert key in ("listen", "slots") or _in_profile(key), key


def _in_profile(key: str) -> bool:
    at = SCHEMA["definitions"]["profile"]["properties"]
    for part in key.split("."):
        if part != ANY:
            found = at.get(part, {})
            at = found.get("properties") or (found.get("additionalProperties") or {}).get("properties") or found
    return bool(at)


def test_defaults_are_values() -> None:
    """A default that an editor would write into a file is one that the file may have."""
    for name, each in SCHEMA["properties"].items():
        for key, value in each.get("properties", {name: each}).items():
            if "default" in value:
                jsonschema.validate(value["default"], {**value, "definitions": SCHEMA["definitions"]})
                assert value["default"] is not None, key


BASE = 'app = "hello:app"\nlisten = "8000"\n'
WRONG = [
    'listen = "8000"',
    'app = "hello:app"',
    'app = "a:b"\ncommand = ["x"]\nlisten = "8000"',
    'app = "hello"\nlisten = "8000"',
    'app = "my/hello.py:app"\nlisten = "8000"',
    'command = "node x"\nlisten = "8000"',
    'command = []\nlisten = "8000"',
    'command = ["x"]\nlisten = "8000"\npython = "/usr/bin/python3"',
    'command = ["x"]\nlisten = "8000"\n[http]\nkeep-alive = "5s"',
    'command = ["x"]\nlisten = "8000"\n[task.users]\ncall = "a:b"',
    'app = "a:b"\nlisten = "http"',
    'app = "a:b"\nlisten = []',
    'app = "a:b"\nlisten = 70000',
    'app = "a:b"\nlisten = "localhost:80"',
    'app = "a:b"\nlisten = {path = "/run/x", mode = 0o660}',
    'app = "a:b"\nlisten = {path = "/run/x", port = 1}',
    *(
        BASE + more
        for more in (
            'lissten = "8000"', "workers = 0", 'workers = "4"', "workers = true", "slots = 257", 'balance = "robin"',
            'user = "root"', "user = 33", 'directory = "app"', 'environment-file = "/etc/*.env"', 'ready = "notify"',
            "reload = 5", "[reload]\nsoak = 2", '[reload]\nsoak = "2 parsecs"', "[reload]\nsorge = 1",
            "[reload]\npreload = true", '[health]\npath = "healthz"', '[log]\naccess = "true"', '[log]\nlevel = "loud"',
            "[env]\nTOKEN = 5", '[env]\nLISTEN_FDS = "3"', "[env]\n\"a b\" = 'x'", '[http]\nroot-path = "/x/"',
            "[frobnicate]\nx = 1", "profile = 5", "[profile.none]", "[profile.x]\nworkers = 0",
            "[task]\nx = 1", "[task.users]", "[task.Users]\ncall = 'a:b'", "[task.users]\ncall = 'a'",
            "[task.users]\ncall = 'a:b'\nevery = 10", "[task.users]\ncall = 'a:b'\nevery = '1h'\ncalendar = 'daily'",
            "[task.users]\ncall = 'a:b'\nevry = '1h'",
            '[profile.x]\nlisten = "80"', "[profile.X]", "[profile.x.profile.y]", '[profile.x.http]\nkeep-alive = 5',
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("toml", WRONG)
def test_both_refuse(toml: str) -> None:
    """The mistakes that an editor can see are refused by the schema as by the parser."""
    table = tomllib.loads(toml)
    assert not accepted(table)
    assert complaints(table)


numbers = st.one_of(st.integers(-1, 1100), st.sampled_from(["auto", "all", "3"]))
spaces = st.sampled_from(["", " ", "  "])
terms = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["0", "1", "1.5", "250", "12345678901"]),
    spaces,
    st.sampled_from(list(UNITS)),
    spaces,
)
times = st.one_of(st.lists(terms, min_size=1, max_size=3).map("".join), st.sampled_from(["0", "5", "", "s"]))
paths = st.text(string.printable + "é", max_size=12).map(lambda t: "/" + t)
words = st.text(st.characters(codec="utf-8"), max_size=8)
dotted = st.lists(st.one_of(st.from_regex("[a-zé_][a-z0-9_é]{0,5}", fullmatch=True), words), min_size=1, max_size=3)
apps = st.builds(
    lambda m, a, call: f"{'.'.join(m)}:{'.'.join(a)}{call}", dotted, dotted, st.sampled_from(["", "()", "('/x', n=-1)"])
)
hosts = st.sampled_from(["127.0.0.1", "0.0.0.0", "[::1]", "[::]", "[2001:DB8::1]", "[::ffff:1.2.3.4]", "256.1.1.1"])
written = st.one_of(
    st.builds("{}:{}".format, hosts, st.integers(0, 70000)), st.integers(0, 70000).map(str), paths,
    st.just("[fe80::1]:80%eth0"),
)  # fmt: skip
accounts = st.one_of(st.from_regex("[a-z_][a-z0-9_-]{0,31}", fullmatch=True), st.integers(0, 10**11).map(str), words)
socket = st.fixed_dictionaries(
    {}, optional={"path": paths, "address": written, "mode": st.sampled_from(["660", "0600", "9"]), "group": accounts}
)
address = st.one_of(written, st.integers(0, 70000), socket)
CLUES: dict[str, st.SearchStrategy[Any]] = {
    "app": apps, "command": st.lists(words, max_size=3), "listen": st.one_of(address, st.lists(address, max_size=3)),
    "user": accounts, "group": accounts, "ready": st.one_of(st.just("notify"), times.map("after {}".format)),
    "env": st.dictionaries(st.one_of(words, st.from_regex("[A-Z_]{1,6}", fullmatch=True)), words, max_size=3),
}  # fmt: skip
anything = st.one_of(numbers, times, paths, words, st.booleans(), apps)
pair = st.sampled_from(list(TABLE)).flatmap(
    lambda key: st.tuples(st.just(key), st.one_of(CLUES.get(key, anything), _enumerated(key)))
)


def _enumerated(key: str) -> st.SearchStrategy[Any]:
    shape = TABLE[key].kind.schema
    return st.sampled_from([*shape.get("enum", []), *shape.get("examples", []), "x"])


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=400)
@given(st.lists(pair, max_size=3), st.lists(pair, max_size=2))
def test_parser_takes_means_schema_takes(pairs: list[tuple[str, Any]], over: list[tuple[str, Any]]) -> None:
    """No editor ever marks as wrong what clusterd would run."""
    table: dict[str, Any] = {"listen": "8000"}
    _fill(table, pairs)
    if "command" not in table:
        table.setdefault("app", "hello:app")
    if over:
        _fill(table.setdefault("profile", {}).setdefault("x", {}), over)
    if accepted(table):
        assert complaints(table) == []


def _fill(table: dict[str, Any], pairs: list[tuple[str, Any]]) -> None:
    for key, value in pairs:
        parent, _, name = key.rpartition(".")
        (table.setdefault(parent, {}) if parent else table)[name] = value
