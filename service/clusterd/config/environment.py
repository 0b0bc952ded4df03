"""The grammar of systemd's EnvironmentFile=, as src/basic/env-file.c of systemd reads it.

systemd skips what it does not understand and logs it; here it is an error that names the line, because a variable
that is silently missing shows much later.
"""

from __future__ import annotations

from clusterd.config.files import NoFile, read_bounded
from clusterd.config.kinds import MAX_ENVIRONMENT, MAX_VARIABLE, is_variable

MAX_FILE = 1 << 20

_SPACE = " \t"
_NEWLINE = "\n\r"
_ESCAPABLE = '"\\`$'
"""What a backslash takes its meaning from inside double quotes; before anything else it stays."""


class EnvironmentFileError(Exception):
    """`line` counts from 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(f"line {line}: {text}")
        self.line = line


def read_environment(path: str) -> dict[str, str]:
    """The variables of the file. Raises OSError, EnvironmentFileError."""
    try:
        data = read_bounded(path, MAX_FILE)
    except NoFile as e:
        raise EnvironmentFileError(1, str(e)) from e
    try:
        return parse_environment(data.decode())
    except UnicodeDecodeError as e:
        raise EnvironmentFileError(data.count(b"\n", 0, e.start) + 1, "a byte that is not UTF-8") from e


def parse_environment(text: str) -> dict[str, str]:
    """The variables of the text; a later assignment wins, as in systemd. Raises EnvironmentFileError."""
    return _Parser(text).run()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    @property
    def line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def take(self) -> str:
        """The next character, "" at the end."""
        char = self.text[self.at : self.at + 1]
        self.at += 1
        return char

    def run(self) -> dict[str, str]:
        found: dict[str, str] = {}
        while char := self.take():
            if char in _SPACE + _NEWLINE:
                continue
            if char in "#;":
                self.comment()
                continue
            self.at -= 1
            line = self.line
            name, value = self.name(), self.value()
            if "\0" in value or len(value.encode()) + len(name) + 2 > MAX_VARIABLE:
                raise EnvironmentFileError(line, f"'{name}' has a NUL in it, or more than {MAX_VARIABLE} bytes")
            found[name] = value
            if len(found) > MAX_ENVIRONMENT:
                raise EnvironmentFileError(line, f"more than {MAX_ENVIRONMENT} variables")
        return found

    def comment(self) -> None:
        line = self.line
        while (char := self.take()) and char not in _NEWLINE:
            if char == "\\" and self.text[self.at : self.at + 1] == "\n":
                # seen on both: the next line is part of the comment for 252, and a variable for 257
                raise EnvironmentFileError(line, "a comment that ends in a backslash: releases of systemd differ on it")

    def name(self) -> str:
        line, start = self.line, self.at
        while (char := self.take()) != "=":
            if not char or char in _NEWLINE:
                raise EnvironmentFileError(line, "no '=' in it: expected NAME=value")
        name = self.text[start : self.at - 1].rstrip(_SPACE)
        if name.startswith("export "):
            raise EnvironmentFileError(line, "leave out 'export': this is not a shell script")
        if not is_variable(name):
            raise EnvironmentFileError(line, f"'{name[:40]}' is no name of a variable")
        return name

    def value(self) -> str:
        """Quoted pieces and one unquoted rest, joined: quotes are quotes only where a piece begins."""
        done: list[str] = []
        while char := self.take():
            if char in _NEWLINE:
                break
            if char == "'":
                done.append(self.single())
            elif char == '"':
                done.append(self.double())
            elif char not in _SPACE:
                self.at -= 1
                done.append(self.bare())
                break
        return "".join(done)

    def single(self) -> str:
        line, end = self.line, self.text.find("'", self.at)
        if end < 0:
            raise EnvironmentFileError(line, "a ' that nothing closes")
        piece, self.at = self.text[self.at : end], end + 1
        return piece

    def double(self) -> str:
        line, piece = self.line, ""
        while (char := self.take()) != '"':
            if char == "\\":
                char = self.take()
                piece += char if char in _ESCAPABLE else "" if char == "\n" else "\\" + char
            else:
                piece += char
            if not char:
                raise EnvironmentFileError(line, 'a " that nothing closes')
        return piece

    def bare(self) -> str:
        piece, keep = "", 0
        while (char := self.take()) and char not in _NEWLINE:
            if char == "\\":
                char = self.take()
                if char and char not in _NEWLINE:
                    piece += char
                keep = len(piece)  # an escaped space at the end is meant
            else:
                piece += char
        return piece[:keep] + piece[keep:].rstrip(_SPACE)
