"""What a gunicorn.conf.py says, without running it.

It is a Python program that anybody may have written, and `clusterd import-gunicorn` may be run by root: so the
assignments at its top level are worked out from the syntax tree, as far as they are literals and the few expressions
such files have. Whatever else there is, is told rather than guessed.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_TEXT = 1 << 16
MAX_NUMBER = 1 << 62


class Unknown(Exception):
    """The value cannot be worked out; the text says why."""


@dataclass(frozen=True)
class Unread:
    """In place of a value that could not be worked out."""

    why: str


@dataclass(frozen=True)
class Value:
    """`how`: what it depends on besides the file, each in words."""

    value: Any
    how: tuple[str, ...] = ()
    cores: bool = False
    """It is the number of cores, nothing else."""


@dataclass
class Read:
    """Names and what they were last set to; functions defined; what was left out, in words."""

    values: dict[str, Value | Unread] = field(default_factory=dict)
    functions: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)


def read(source: str, file: str) -> Read:
    """Raises SyntaxError, as Python would; ValueError, with the reason, for what Python itself could not read."""
    try:
        tree = ast.parse(source, file)
        reader = _Reader(file)
        reader.block(tree.body)
    except (RecursionError, MemoryError):
        raise ValueError("nested too deep") from None
    return reader.found


class _Reader:
    def __init__(self, file: str) -> None:
        self.found = Read(values={"__file__": Value(file), "__name__": Value("__config__")})
        self.modules: dict[str, str] = {}
        """A name in the file -> what it was imported as, with dots."""

    def block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self.assign(target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self.assign(target, value)
            case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                self.assign(node.target, ast.BinOp(ast.Name(name, ast.Load()), op, value))
            case ast.Import(names=names):
                for each in names:
                    self.modules[each.asname or each.name.partition(".")[0]] = (
                        each.name if each.asname else each.name.partition(".")[0]
                    )
            case ast.ImportFrom(module=module, names=names):
                for each in names:
                    if each.name == "*":
                        self.found.left_out.append(f"line {node.lineno}: what 'from {module} import *' brings")
                    self.modules[each.asname or each.name] = f"{module}.{each.name}"
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                self.found.functions.add(name)
            case ast.If(test=test, body=body, orelse=orelse):
                try:
                    known = self.value(test)
                except Unknown as e:
                    self.unread(node, f"set under a condition ({e})")
                    return
                if known.how:
                    self.unread(node, f"set under a condition on {', '.join(known.how)}")
                else:
                    self.block(body if known.value else orelse)
            case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.ClassDef() | ast.Assert():
                pass
            case ast.Expr():
                self.found.left_out.append(f"line {node.lineno}: a call, which was not made")
            case _:
                self.unread(node, f"set inside the '{type(node).__name__.lower()}' of line {node.lineno}")

    def unread(self, node: ast.stmt, why: str) -> None:
        for each in ast.walk(node):
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
                self.found.values[each.id] = Unread(why)
            elif isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self.found.functions.add(each.name)

    def assign(self, target: ast.expr, node: ast.expr) -> None:
        if isinstance(target, ast.Name):
            if isinstance(node, ast.Lambda):
                self.found.functions.add(target.id)
                return
            try:
                self.found.values[target.id] = self.value(node)
            except Unknown as e:
                self.found.values[target.id] = Unread(str(e))
            return
        for each in ast.walk(target):  # a, b = ...; settings["x"] = ...
            if isinstance(each, ast.Name):
                self.found.values[each.id] = Unread("set together with others, or in part")

    def value(self, node: ast.expr) -> Value:
        how: list[str] = []
        value = self.work_out(node, how)
        if isinstance(value, (str, bytes, list, tuple)) and len(value) > MAX_TEXT:
            raise Unknown("too long")
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise Unknown("too large a number")
        alone = isinstance(node, ast.Call) and self.name(node.func) in _CORES
        return Value(value, tuple(dict.fromkeys(how)), alone)

    def work_out(self, node: ast.expr, how: list[str]) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return [self.work_out(each, how) for each in elements]
            case ast.Dict(keys=keys, values=values) if all(keys):
                return {
                    str(self.work_out(k, how)): self.work_out(v, how) for k, v in zip(keys, values, strict=True) if k
                }
            case ast.Name(id=name) if name in self.found.values:
                known = self.found.values[name]
                if isinstance(known, Unread):
                    raise Unknown(known.why)
                how.extend(known.how)
                return known.value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -_number(self.work_out(operand, how))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self.work_out(operand, how)
            case ast.BinOp(left=left, op=op, right=right):
                return _operate(op, self.work_out(left, how), self.work_out(right, how))
            case ast.BoolOp(op=ast.Or(), values=values):
                for each in values:
                    last = self.work_out(each, how)
                    if last:
                        break
                return last
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.work_out(body if self.work_out(test, how) else orelse, how)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if isinstance(op, (ast.Eq, ast.NotEq)):
                equal = self.work_out(left, how) == self.work_out(right, how)
                return equal if isinstance(op, ast.Eq) else not equal
            case ast.JoinedStr(values=parts):
                return "".join(str(self.work_out(each, how)) for each in parts)
            case ast.FormattedValue(value=value, format_spec=None):
                return self.work_out(value, how)
            case ast.Subscript(value=value, slice=ast.Constant(value=str(key))) if self.name(value) == "os.environ":
                raise Unknown(f"the environment variable {key}")
            case ast.Call(func=func, args=arguments, keywords=[]):
                return self.call(func, arguments, how)
        raise Unknown(f"'{_shown(node)}', which is not worked out here")

    def call(self, func: ast.expr, nodes: list[ast.expr], how: list[str]) -> Any:
        name = self.name(func)
        if name in _CORES and not nodes:
            how.append("the number of cores")
            return os.cpu_count() or 1
        if name in ("os.environ.get", "os.getenv") and nodes:
            variable = self.work_out(nodes[0], how)
            if len(nodes) < 2:
                raise Unknown(f"the environment variable {variable}")
            how.append(f"the environment variable {variable}, taken as not set")
            return self.work_out(nodes[1], how)
        known = _CALLS.get(name)
        if known is None:
            raise Unknown(f"'{_shown(func)}()', which is not called here")
        arguments = [self.work_out(each, how) for each in nodes]
        try:
            return known(*arguments)
        except (TypeError, ValueError, OverflowError) as e:
            raise Unknown(f"{name}(): {e}") from None

    def name(self, node: ast.expr) -> str:
        """The dotted name with what it was imported as; "" when it is none."""
        if isinstance(node, ast.Name):
            return self.modules.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            holder = self.name(node.value)
            return f"{holder}.{node.attr}" if holder else ""
        return ""


_CORES = ("multiprocessing.cpu_count", "os.cpu_count")
_CALLS: Mapping[str, Callable[..., Any]] = {
    "int": int,
    "str": str,
    "float": float,
    "bool": bool,
    "max": max,
    "min": min,
    "round": round,
    "os.path.join": os.path.join,
    "os.path.dirname": os.path.dirname,
    "os.path.abspath": os.path.abspath,
    "os.path.realpath": os.path.abspath,
}


def _operate(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(op, ast.Add):
        for kind in (str, list):
            if isinstance(left, kind) and isinstance(right, kind):
                if len(left) + len(right) > MAX_TEXT:
                    raise Unknown("too long")
                both: Any = left
                return both + right
    left, right = _number(left), _number(right)
    try:
        match op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.FloorDiv():
                return left // right
            case ast.Div():
                return left / right
    except (ZeroDivisionError, OverflowError) as e:
        raise Unknown(str(e)) from None
    raise Unknown(f"'{type(op).__name__}', which is not worked out here")


def _number(value: Any) -> Any:
    if not isinstance(value, (int, float)) or abs(value) > MAX_NUMBER:
        raise Unknown("something other than a number in a sum")
    return value


def _shown(node: ast.expr) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 40 else text[:37] + "..."
