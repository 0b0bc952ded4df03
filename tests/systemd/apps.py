"""The applications the machines serve: the examples that ship, one for each engine, with a greeting to tell them by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.systemd.harness.images import VENV
from tests.systemd.harness.instance import Instance

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

WSGI = """\
import os

GREETING = "hello"


def app(environ, start_response):
    path = environ["PATH_INFO"]
    text = {"/pid": f"{os.getpid()}", "/healthz": "ok"}.get(path, f"{GREETING} from {os.getpid()}")
    body = text.encode() + b"\\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""


@dataclass(frozen=True)
class App:
    """One kind of application: its file, where the source of it is, and what the TOML says of it."""

    name: str
    file: str
    toml: str

    def source(self, greeting: str = "hello") -> str:
        """The code, greeting as told."""
        text = WSGI if self.file == "wsgi.py" else (EXAMPLES / self.file.partition(":")[0]).read_text()
        assert 'GREETING = "hello"' in text
        return text.replace('GREETING = "hello"', f'GREETING = "{greeting}"')

    @property
    def module(self) -> str:
        """The file's name in the application's directory."""
        return self.file.rpartition("/")[2]

    def deploy(self, instance: Instance, greeting: str = "hello", extra: str = "", *, reload: bool = True) -> None:
        """Put code and configuration in place; `extra` are further lines of the TOML (tables last); daemon-reload."""
        instance.write(self.module, self.source(greeting))
        text = f'{self.toml}\ndirectory = "@DIRECTORY@"\nlisten = ["127.0.0.1:@PORT@"]\n{extra}'
        instance.configure(text, reload=reload)


UVICORN = App("uvicorn", "hello/hello.py", 'app = "hello:app"')
NEWEST = App("uvicorn-newest", "hello/hello.py", f'app = "hello:app"\npython = "{VENV}/bin/python"')
WAITRESS = App("waitress", "wsgi.py", 'app = "wsgi:app"')
GRANIAN = App("granian", "wsgi.py", f'app = "wsgi:app"\npython = "{VENV}/bin/python"')
GRANIAN_ASGI = App(
    "granian-asgi", "hello/hello.py", f'app = "hello:app"\nengine = "granian"\npython = "{VENV}/bin/python"'
)
NODE = App("node", "node/server.js", 'command = ["node", "server.js"]')

ENGINES = (UVICORN, NEWEST, WAITRESS, GRANIAN, NODE)
"""Those that `engine = "auto"` takes, and a command."""
