"""What the machines have of others' software: a layer of frameworks and products from PyPI, one of Debian's servers.

Each application has a venv of its own, made as its documentation says, with the engine beside it. All of them are
also in the home of an ordinary user, closed to everybody else as Debian 13 makes it.
"""

from __future__ import annotations

from tests.systemd.harness.images import Addition

USER = "ann"

FRAMEWORKS = Addition(
    "frameworks",
    venvs=(
        ("/srv/venv/django", ("django", "uvicorn", "waitress")),
        ("/srv/venv/flask", ("flask", "waitress")),
        ("/srv/venv/fastapi", ("fastapi", "uvicorn")),
        ("/srv/venv/starlette", ("starlette", "sse-starlette", "uvicorn", "websockets")),
        ("/srv/venv/litestar", ("litestar", "uvicorn")),
        ("/srv/venv/datasette", ("datasette", "uvicorn")),
        # legacy-cgi: its condition on the version of Python is judged by the pip that downloads.
        ("/srv/venv/pypiserver", ("pypiserver", "legacy-cgi", "waitress")),
    ),
    script=f"""
useradd -s /bin/sh {USER}
mkdir -p /home/{USER}
cp -a /srv/venv /home/{USER}/
chown -R {USER}: /home/{USER}
chmod 0700 /home/{USER}
""",
)

COMMANDS = Addition(
    "commands",
    packages=("puma", "ruby-rack", "lighttpd", "prometheus-node-exporter", "gunicorn"),
    venvs=(("/srv/venv/hypercorn", ("hypercorn",)),),
)
