"""The file `clusterd init` writes: what was found, each key with its reason, and what one may want next as comments."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from clusterd.config.schema import DIRECTIVE
from clusterd.discovery.found import Candidate, Interpreter


@dataclass(frozen=True)
class Plan:
    """What goes into the file. `user` None: an account of its own; `why_user` says which directory is closed."""

    name: str
    candidate: Candidate
    interpreter: Interpreter
    listen: str
    user: str | None
    why_user: str


def toml(plan: Plan) -> str:
    c = plan.candidate
    lines = [DIRECTIVE, f"# {plan.name}: {c.framework}, found in {c.why}. See cluster.toml(5).", ""]
    if c.command:
        words = ", ".join(_quoted(word) for word in c.command)
        lines += [
            "# The program. It takes its sockets from systemd (LISTEN_FDS); no shell reads this.",
            f"command = [{words}]",
        ]
        lines += [
            '# When a worker is ready: as it says by sd_notify ("notify"), or after a time.',
            'ready = "after 2s"',
        ]
    else:
        lines += ["# What is served: MODULE:OBJECT, or MODULE:FACTORY().", f"app = {_quoted(c.reference)}"]
    lines += [
        "# Where it lives. May be a symbolic link that a deploy flips: it is followed at each reload.",
        f"directory = {_quoted(str(c.directory))}",
    ]
    if not c.command:
        lines += [f"# Its interpreter ({plan.interpreter.why}).", f"python = {_quoted(plan.interpreter.path)}"]
    if plan.user:
        lines += [f"# {plan.why_user}", f"user = {_quoted(plan.user)}"]
    else:
        lines += ["# The account it runs as; without one it gets its own, which owns nothing.", '# user = "www-data"']
    lines += [
        "# Where it takes connections. A port alone is every address of the machine.",
        f"listen = {_quoted(plan.listen)}",
        "# One worker for each core unless you say otherwise.",
        "# workers = 4",
        "# Secrets: systemd reads that file as root, so that it may be root's alone.",
        f'# environment-file = "/etc/clusterd/{plan.name}.env"',
    ]
    if not c.command:
        lines += ["", "# Asked of each new worker before it serves. A reload to code that fails it is refused."]
        if c.health and not c.framework.startswith("Django"):
            lines += ["[health]", f"path = {_quoted(c.health)}"]
        else:
            # Django answers 400 to a host that is not in ALLOWED_HOSTS
            lines += ["# [health]", f"# path = {_quoted(c.health or '/healthz')}"]
    lines += [
        "",
        f"# Laid over the above by: clusterd start {plan.name} --profile production",
        "# [profile.production]",
        "# workers = 8",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def needs(plan: Plan) -> str | None:
    """The command that installs the server the application needs; None when its interpreter has one."""
    c, packages = plan.candidate, plan.interpreter.packages
    if c.command:
        return None
    wanted = {"asgi": ("uvicorn", "granian"), "wsgi": ("granian", "waitress"), "unknown": ("uvicorn", "waitress")}
    if packages.intersection(wanted[c.interface]):
        return None
    server = {"asgi": "uvicorn", "wsgi": "waitress", "unknown": "uvicorn"}[c.interface]
    if plan.interpreter.path == "/usr/bin/python3":
        return f"apt install python3-{server}"
    if "pip" not in packages:
        return f"uv pip install --python {plan.interpreter.path} {server}"
    return f"{Path(plan.interpreter.path).parent / 'pip'} install {server}"
