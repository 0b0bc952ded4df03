""" "module:attribute", "module:factory()" or "module:factory(root='/srv')": how a file names an application.

The arguments are literals, as gunicorn has it, because products document their factories so. Read by the file's parser,
which refuses, and by the zygote, which imports.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reference:
    module: str
    attribute: str
    factory: bool = False
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    """As it stands in the file."""

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Reference:
    """Raises ValueError, with what to do about it."""
    module, colon, what = text.partition(":")
    if not colon:
        raise ValueError(_such_as("name the object in the module too", module, "app"))
    if "/" in module or module.endswith(".py"):
        raise ValueError(_such_as('a module\'s name has no slashes and no ".py"', module, what))
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError("a module's name is of letters, digits and '_', as it stands behind 'import'")
    try:
        found = ast.parse(what, mode="eval").body if what == what.strip() else None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        found = None
    call = found if isinstance(found, ast.Call) else None
    attribute = _dotted(call.func if call else found)
    if not attribute:
        raise ValueError("after the colon stands the object's name, or a call of what makes it")
    try:
        arguments = tuple(ast.literal_eval(each) for each in call.args) if call else ()
        keywords = {_keyword(each): ast.literal_eval(each.value) for each in call.keywords} if call else {}
    except (ValueError, TypeError, MemoryError, RecursionError):
        raise ValueError("the arguments of a factory are literals: strings, numbers, True, lists") from None
    return Reference(module, attribute, call is not None, arguments, keywords, text)


def _such_as(words: str, path: str, what: str) -> str:
    """`words`, and behind them what may be meant by the path of a module: only where that can be read."""
    better = f"{path.removesuffix('.py').removeprefix('./').replace('/', '.')}:{what}"
    try:
        parse(better)
    except ValueError:
        return words
    return f'{words}: "{better}"'


def _dotted(node: ast.expr | None) -> str:
    """ "make.app" of an expression that is nothing but a dotted name; else ""."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ""


def _keyword(node: ast.keyword) -> str:
    if node.arg is None:
        raise ValueError
    return node.arg
