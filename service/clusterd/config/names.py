"""Instance and account names. Imported by the generator: standard library only, nothing slow to import."""

from __future__ import annotations

import re

NAME = "[a-z][a-z0-9-]{0,22}"
"""The grammar as people read it. 23 characters: the dynamic user 'cluster-NAME' must fit the 31 systemd allows."""

ACCOUNT = "[a-z_][a-z0-9_-]{0,30}"
"""What Debian's adduser and systemd's strict mode both take, numbers besides."""

_LAST_ACCOUNT = 2**32 - 2
"""One below (uid_t) -1, by which the kernel means none."""
_NO_ACCOUNT_16 = 2**16 - 1
"""The same where a uid_t had 16 bits; systemd's parse_uid() refuses both."""

TASK = "[a-z][a-z0-9_-]{0,30}"
"""Of a task: part of a unit's name."""


def is_task(text: str) -> bool:
    return re.fullmatch(TASK, text) is not None


def is_name(text: str) -> bool:
    """Whether `text` may name an instance: 'cluster@TEXT.service', 'TEXT.toml', the user 'cluster-TEXT'."""
    return re.fullmatch(NAME, text) is not None


def derived(text: str) -> str:
    """The name nearest to `text`, such as that of a directory; "" when nothing of it can be one."""
    plain = re.sub("[^a-z0-9]+", "-", text.lower()).lstrip("-0123456789")
    return plain[:23].rstrip("-")


def is_account(text: str) -> bool:
    """Whether `text`, a name or a number, may stand in User=, Group=, SocketUser=. Nothing is looked up."""
    if re.fullmatch("0|[1-9][0-9]{0,9}", text):
        return int(text) <= _LAST_ACCOUNT and int(text) != _NO_ACCOUNT_16
    return re.fullmatch(ACCOUNT, text) is not None


def account_hint(value: object) -> str:
    """What is to be known of accounts by who wrote `value`, which is none."""
    if isinstance(value, str) and value.isdecimal() and not value.startswith("0"):
        return f"a number is at most {_LAST_ACCOUNT}, and not {_NO_ACCOUNT_16}: systemd takes no other"
    return f"a name is {ACCOUNT}"


def is_loadable(path: str) -> bool:
    """Whether `path` may stand in LoadCredential=NAME:PATH as it is."""
    return re.fullmatch(r"/[!-~]+", path) is not None and not re.search(r"[:\\\"']", path)


def is_root(text: str) -> bool:
    return text in ("root", "0")
