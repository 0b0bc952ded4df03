"""What the control socket says of itself, and that it is Varlink."""

from __future__ import annotations

import re

from clusterd import __version__
from clusterd.shell import interface
from clusterd.shell.interface import METHODS
from tests.shell.control_peers import Caller, Server


def test_service_methods(server: Server, caller: Caller) -> None:
    """GetInfo and GetInterfaceDescription answer as the Varlink specification has it."""
    caller.send("org.varlink.service.GetInfo")
    info = caller.reply()["parameters"]
    assert info["interfaces"] == ["org.varlink.service", "io.clusterd"] and info["version"] == __version__
    for name in info["interfaces"]:
        caller.send("org.varlink.service.GetInterfaceDescription", parameters={"interface": name})
        assert f"interface {name}\n" in caller.reply()["parameters"]["description"]
    caller.send("org.varlink.service.GetInterfaceDescription", parameters={"interface": "x.y"})
    assert caller.reply()["error"] == "org.varlink.service.InterfaceNotFound"
    caller.send("org.varlink.service.GetInterfaceDescription")
    assert caller.reply() == {"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": "interface"}}


TOKEN = re.compile(r"\s+|#[^\n]*|->|[(),:?\[\]]|[A-Za-z][A-Za-z0-9_.-]*")


class Grammar:
    """A parser for Varlink's interface language; collects what is defined and what is used."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        at = 0
        while at < len(text):
            match = TOKEN.match(text, at)
            assert match, f"no token at {text[at : at + 20]!r}"
            at = match.end()
            if not match[0].isspace() and not match[0].startswith("#"):
                self.tokens.append(match[0])
        self.defined: dict[str, set[str]] = {"type": set(), "method": set(), "error": set()}
        self.parameters: dict[str, list[str]] = {}
        self.used: set[str] = set()
        self.take("interface")
        self.name = self.take()
        while self.tokens:
            kind, name = self.take(), self.take()
            assert kind in self.defined and re.fullmatch("[A-Z][A-Za-z0-9]*", name), (kind, name)
            assert name not in set().union(*self.defined.values())
            self.defined[kind].add(name)
            self.parameters[name] = self.struct()
            if kind == "method":
                self.take("->")
                self.struct()
        assert self.used <= self.defined["type"], self.used

    def take(self, *expected: str) -> str:
        token = self.tokens.pop(0)
        assert not expected or token in expected, (token, expected)
        return token

    def struct(self) -> list[str]:
        """A struct's fields, or an enumeration's names."""
        self.take("(")
        fields = []
        while self.tokens[0] != ")":
            field = self.take()
            assert re.fullmatch("[A-Za-z](_?[A-Za-z0-9])*", field), field
            fields.append(field)
            if self.tokens[0] == ":":
                self.take(":")
                self.type()
            if self.tokens[0] != ")":
                self.take(",")
        self.take(")")
        return fields

    def type(self) -> None:
        if self.tokens[0] == "?":
            self.take()
        while self.tokens[0] == "[":
            self.take("[")
            if self.tokens[0] == "string":
                self.take("string")
            self.take("]")
        if self.tokens[0] == "(":
            self.struct()
        elif self.tokens[0] not in ("bool", "int", "float", "string", "object"):
            self.used.add(self.take())
        else:
            self.take()


def test_interface_text() -> None:
    """The text is valid Varlink, and says exactly the methods, parameters and errors there are."""
    parsed = Grammar(interface.TEXT)
    assert parsed.name == interface.NAME
    assert parsed.defined["method"] == set(METHODS)
    assert {name: tuple(parsed.parameters[name]) for name in METHODS} == {n: m.parameters for n, m in METHODS.items()}
    assert parsed.defined["error"] == set(interface.ERRORS)
    assert Grammar(interface.SERVICE_TEXT).name == interface.SERVICE
