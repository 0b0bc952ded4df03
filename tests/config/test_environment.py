"""The grammar of EnvironmentFile=."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.config.environment import EnvironmentFileError, parse_environment, read_environment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("# c\n; c\n\n  A = 1  \n", {"A": "1"}),
        ("A=1 # no comment", {"A": "1 # no comment"}),
        ("A=", {"A": ""}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=one\\\ntwo", {"A": "onetwo"}),
        ("# c:\\d\nB=2", {"B": "2"}),
        ("A='x y'\nB=\"x y\"", {"A": "x y", "B": "x y"}),
        ('A="a\nb"', {"A": "a\nb"}),
        ('A="a\\\nb"', {"A": "ab"}),
        ('A="\\"\\$\\\\\\n"', {"A": '"$\\\\n'}),
        ("A='\\n'", {"A": "\\n"}),
        ("A='it'\"'\"'s'", {"A": "it's"}),
        ("A='a' b", {"A": "ab"}),
        ('A=x"y"', {"A": 'x"y"'}),
        ("A=a\\ ", {"A": "a "}),
        ("A=\\x", {"A": "x"}),
        ("A=$B ${C}", {"A": "$B ${C}"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=b=c", {"A": "b=c"}),
    ],
)
def test_reads(text: str, expected: dict[str, str]) -> None:
    """Comments, quotes, escapes and continuations mean what they mean to systemd; nothing is expanded."""
    assert parse_environment(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\nB\nC=3", "line 2: no '=' in it: expected NAME=value"),
        ("A=1\n\nexport B=2", "line 3: leave out 'export': this is not a shell script"),
        ("\n# c \\\nA=1", "line 2: a comment that ends in a backslash: releases of systemd differ on it"),
        ("1A=2", "line 1: '1A' is no name of a variable"),
        ("A='x\ny", "line 1: a ' that nothing closes"),
        ('\nA="x\ny', 'line 2: a " that nothing closes'),
        ("A=a\0b", "line 1: 'A' has a NUL in it, or more than 131072 bytes"),
        ("A=" + "x" * 131072, "line 1: 'A' has a NUL in it, or more than 131072 bytes"),
        ("\n".join(f"A{n}=" for n in range(1001)), "line 1001: more than 1000 variables"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    """What systemd would skip is an error that names its line, and never the value."""
    with pytest.raises(EnvironmentFileError) as e:
        parse_environment(text)
    assert str(e.value) == message


@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    """Any text is variables or an error."""
    try:
        parse_environment(text)
    except EnvironmentFileError as e:
        assert 1 <= e.line <= text.count("\n") + 1


@given(st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=40))
def test_quoting(value: str) -> None:
    """Every value can be written in double quotes."""
    quoted = "".join(f"\\{c}" if c in '"\\`$' else c for c in value)
    assert parse_environment(f'A="{quoted}"') == {"A": value}


def test_file(tmp_path: Path) -> None:
    """A file that is not UTF-8 is an error with its line; one that is too large is not read."""
    path = tmp_path / "env"
    path.write_bytes(b"A=1\nB=\xff\n")
    with pytest.raises(EnvironmentFileError, match="line 2: a byte that is not UTF-8"):
        read_environment(str(path))
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(EnvironmentFileError, match="more than 1048576 bytes"):
        read_environment(str(path))
