"""The JSON Schema of the file, made from the table of settings, for editors that complete and check TOML.

`python -m clusterd.config.schema > cluster.schema.json`; `clusterd schema` prints the same. Draft 7: it is what taplo
and Even Better TOML are sure to know. It takes whatever the parser takes; what it cannot tell, two keys that
contradict each other say, is left to `clusterd check`.
"""

from __future__ import annotations

import json
from typing import Any

from clusterd.config import profiles
from clusterd.config.names import TASK
from clusterd.config.settings import ANY, EACH, TABLE, TYPES, Setting

INSTALLED = "/usr/share/clusterd/cluster.schema.json"
DIRECTIVE = f"#:schema file://{INSTALLED}"
"""A first line that tells such an editor where the schema is."""

_PLACE = {
    "reload": "systemctl reload",
    "daemon-reload": "systemctl daemon-reload, systemctl reload",
    "restart": "systemctl restart",
    "socket restart": "clusterd stop, clusterd start",
}

_TABLES = {
    "http": "What the engine does with HTTP.",
    "reload": "How a reload goes.",
    "stop": "How a stop and a restart go.",
    "restart": "How a worker that died is replaced.",
    "health": "How a new worker is checked.",
    "sandbox": "What the service may do beyond its unit, or may not.",
    "limits": "What the service may use.",
    "log": "What is logged.",
    "task": "Functions of the application that run once, not once a worker.",
}


def schema() -> dict[str, Any]:
    """The whole schema, as JSON values."""
    keys = _keys(lambda _: True)
    keys["profile"] = {
        "type": "object",
        "description": "What another profile has in place of the keys above: clusterd start NAME --profile PROFILE.",
        "propertyNames": {"pattern": f"^{profiles.NAME}$", "not": {"enum": [profiles.NONE]}},
        "additionalProperties": {"$ref": "#/definitions/profile"},
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "One application served by clusterd, /etc/clusterd/NAME.toml",
        "description": "See cluster.toml(5).",
        "type": "object",
        "properties": keys,
        "additionalProperties": False,
        "required": ["listen"],
        "oneOf": [{"required": ["app"], **_without("command")}, {"required": ["command"], **_without("app")}],
        "definitions": {
            "profile": {
                "type": "object",
                "properties": _keys(lambda key: key not in profiles.FIXED, whole=False),
                "additionalProperties": False,
            }
        },
    }


def _keys(wanted: Any, *, whole: bool = True) -> dict[str, Any]:
    """Not `whole`: of a profile, which has of a task only what is another there."""
    found: dict[str, Any] = {}
    for key, row in TABLE.items():
        if not wanted(key):
            continue
        table, _, name = key.rpartition(".")
        if not table:
            found[key] = _key(row)
            continue
        empty = {"type": "object", "properties": {}, "additionalProperties": False}
        if table.endswith(f".{ANY}"):
            table = table.removesuffix(f".{ANY}")
            every = found.setdefault(table, {"type": "object", "description": _TABLES[table], **_named(empty, whole)})
            every["additionalProperties"]["properties"][name] = _key(row)
            continue
        made = found.setdefault(table, {**empty, "description": _TABLES.get(table, f"[{table}]")})
        made["properties"][name] = _key(row)
    return found


def _named(empty: dict[str, Any], whole: bool) -> dict[str, Any]:
    """[task.NAME]"""
    one = {**empty, "properties": {}, "not": {"required": ["every", "calendar"]}}
    one |= {"required": ["call"]} if whole else {}
    return {"propertyNames": {"pattern": f"^{TASK}$"}, "additionalProperties": one}


def _key(row: Setting) -> dict[str, Any]:
    only = f" Only with {row.only}." if row.only != "both" else ""
    description = f"{row.doc}{only} Default: {row.default}. Takes effect by: {_PLACE[row.applies]}."
    shown = {"description": description, **row.kind.schema}
    try:
        default = json.loads(row.default)
    except ValueError:
        return shown  # in words, such as "no limit"
    return shown | {"default": default} if default != "/srv/NAME" else shown


def _without(sort: str) -> dict[str, Any]:
    """That none of the keys is there that only a file with `sort` has."""
    forbidden = [key for key, row in TABLE.items() if row.only == sort]
    named = sorted({key.partition(".")[0] for key in forbidden} & EACH.keys())
    top = [sort] + [key for key in forbidden if "." not in key] + named
    tables = {
        table: {"not": {"anyOf": [{"required": [name]} for name in names]}}
        for table in TYPES
        if (names := [key.partition(".")[2] for key in forbidden if key.startswith(table + ".")])
    }
    return {"not": {"anyOf": [{"required": [key]} for key in top]}, "properties": tables}


def text() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
