"""What the pages advise, as the file's reader understands it."""

from __future__ import annotations

import re
import tomllib

from clusterd.config.load import from_run
from tests.conftest import PROJECT


def test_behind_a_proxy() -> None:
    """An idle connection is kept through a reload for as long as the proxy may keep it, which is 60 s of nginx's."""
    page = (PROJECT / "docs" / "proxies.md").read_text().partition("## Connections that are kept\n")[2]
    lines = re.findall("^    (.*)$", page.partition("\n## ")[0], re.MULTILINE)
    settings = from_run(app="a:b", **tomllib.loads("\n".join(lines)))
    assert (settings.http.keep_alive, settings.reload.linger) == (75.0, 75.0)
