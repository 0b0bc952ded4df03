"""cluster.toml(5), made from the table of settings: `python -m clusterd.config.manual > cluster.toml.5`."""

from __future__ import annotations

import re
import sys
import textwrap

from clusterd import __version__
from clusterd.config.names import NAME
from clusterd.config.settings import ENGINES, LATER, NAMED, TABLE, Setting
from clusterd.worker import abilities

_ONLY = {"app": "Only with app.", "command": "Only with command.", "both": ""}
_APPLIES = {
    "reload": "systemctl reload",
    "daemon-reload": "systemctl daemon-reload, systemctl reload",
    "restart": "systemctl daemon-reload, systemctl restart",
    "socket restart": "clusterd stop, clusterd start",
}

_HEAD = f"""\
.TH CLUSTER.TOML 5 "" "clusterd {__version__}" "File formats"
.SH NAME
cluster.toml \\- configuration of an application served by clusterd
.SH SYNOPSIS
.I /etc/clusterd/NAME.toml
.SH DESCRIPTION
One file describes one application, which systemd knows as
.IR cluster@NAME.service .
NAME is {NAME}.
The file is TOML. All keys may be left out but
.BR app " or " command ,
and
.BR listen .
An unknown key, a wrong type or an impossible combination is an error;
.B clusterd check NAME
tells all of them at once, and what a reload would change.
A running application is not hurt by a broken file: a reload refuses it and changes nothing.
.PP
A time has its unit:
.BR ms ", " s ", " min ", " h " or " d ,
as in "30s" or "1min 30s". An address is written as for systemd's
.BR ListenStream= .
.PP
The file is read by the service's own user: leave it readable (mode 0644), and put secrets into
.BR environment-file ,
which systemd reads as root.
.PP
After a change of the file,
.B systemctl daemon-reload
tells systemd. Each key says by what command it comes into effect.
.SH EXAMPLE
.nf
.RS
app = "hello:app"
directory = "/srv/hello"
python = "/srv/hello/.venv/bin/python"
listen = ["8000", "/run/hello.sock"]

[reload]
drain\\-timeout = "1min"

[health]
path = "/healthz"
.RE
.fi
.SH KEYS
"""

_TAIL = """\
.SH PROFILES
A table
.B [profile.NAME]
has keys and tables as the file itself has them. With
.B clusterd start NAME \\-\\-profile PROFILE
or
.B clusterd reload NAME \\-\\-profile PROFILE
they are laid over the file's: a key replaces the file's, a table is gone through key by key, and what the profile does
not have stays as it is. The choice is remembered, in
.IR /etc/clusterd/NAME.profile ,
for every later start, reload and boot;
.B \\-\\-profile none
forgets it.
.B clusterd check
checks every profile, chosen or not. A profile has no
.BR listen " and no " slots :
the sockets are the application's own, whatever it is run as.
.PP
.nf
.RS
app = "hello:app"
listen = "127.0.0.1:8000"

[profile.production]
workers = 16

[profile.production.env]
LOGGING = "json"
.RE
.fi
.SH TWO FILES, ONE ADDRESS
Addresses of two files must not overlap, wildcards and both IP families included: the kernel would let both listen, and
share the connections out between them. An application that runs keeps its address; among those that do not, the first
in the order of the alphabet has it. The other one is refused, and told both names.
.SH APPLICATIONS OF A USER
A user's own file is
.IR ~/.config/clusterd/NAME.toml ,
for
.BR "systemctl \\-\\-user" " and " "clusterd \\-\\-user" .
There
.BR user ", " group
and an owner of a UNIX socket are refused, and so are ports below 1024;
.B directory
is NAME in the home unless it is given, and
.B environment-file
is read by the user.
.SH FILES
.TP
.I /etc/clusterd/NAME.toml
.TP
.I ~/.config/clusterd/NAME.toml
A user's own.
.TP
.I /etc/clusterd/NAME.profile
The profile chosen for it, one line. May be written by hand; without it there is none.
.TP
.I /usr/share/clusterd/cluster.schema.json
The file's JSON Schema, for editors that complete and check TOML, such as those with taplo. A file names it in its first
line:
.br
#:schema file:///usr/share/clusterd/cluster.schema.json
.TP
.I /run/clusterd/NAME/control
The running application's control socket.
.TP
.I /var/lib/clusterd/NAME
The one directory that the application can write and that stays, unless
.B write
of [sandbox] names others; its path is in STATE_DIRECTORY.
.SH SEE ALSO
.BR clusterd (8),
.BR systemd.socket (5),
.BR systemd.exec (5),
.BR systemd.time (7)
"""


def manual() -> str:
    """The page, as roff."""
    sections = [_HEAD]
    table = ""
    for key, row in TABLE.items():
        parent = key if key in NAMED else key.rpartition(".")[0]
        if parent != table:
            table = parent
            sections.append(_heading(table))
        sections.append(_entry(key, row))
    sections += [_engines(), _later(), _TAIL]
    return "".join(sections)


def _heading(table: str) -> str:
    # a key below a table must come after all that stand above every table: so does the page
    return f".SS [{_roff(table)}]\n" if table else ".SS At the top of the file\n"


def _entry(key: str, row: Setting) -> str:
    name = "NAME" if key in NAMED else key.rpartition(".")[2]
    expected = NAMED.get(key, row.kind.expected)
    lines = [".TP", f'.BR {_roff(name)} " = {_quoted(expected)}"', *_fill(row.doc)]
    facts = f"Default: {row.default}. Takes effect by: {_APPLIES[row.applies]}. {_ONLY[row.only]}".strip()
    return "\n".join([*lines, ".br", *_fill(facts), ""])


def _engines() -> str:
    lines = [
        ".SH ENGINES",
        "What each can do. A key that the engine cannot do is refused, at the latest when the application is known.",
    ]
    for key in abilities.LIMITS:
        lines += [".TP", f".B {_roff(key)}"]
        for engine in ENGINES:
            lines += [*_fill(f"{engine}: {abilities.in_words(key, engine)}."), ".br"]
        lines.pop()
    return "\n".join(lines) + "\n"


def engines_table() -> str:
    """The same as a table of Markdown, for docs/engines.md."""
    rows = [["key", *ENGINES], ["---"] * (len(ENGINES) + 1)]
    rows += [[f"`{key}`", *(abilities.in_words(key, engine) for engine in ENGINES)] for key in abilities.LIMITS]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _later() -> str:
    lines = [".SH NOT IN THIS RELEASE"]
    for key, text in LATER.items():
        lines += [".TP", f".B {_roff(key)}", *_fill(text)]
    return "\n".join(lines) + "\n"


def _fill(text: str) -> list[str]:
    # a line that begins with . or ' would be a request
    return [re.sub(r"^([.'])", r"\\&\1", line) for line in textwrap.wrap(_roff(text), 100, break_on_hyphens=False)]


def _roff(text: str) -> str:
    # a plain - is a hyphen, which a reader cannot copy into a file
    return text.replace("\\", "\\e").replace("-", "\\-")


def _quoted(text: str) -> str:
    return _roff(text).replace('"', "\\(dq")


if __name__ == "__main__":
    print(engines_table() if sys.argv[1:] == ["engines"] else manual(), end="")
