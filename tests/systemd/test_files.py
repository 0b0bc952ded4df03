"""Owners and modes of what the package and a running instance have: the table of docs/security.md, nothing looser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.systemd.apps import NODE
from tests.systemd.harness.instance import Instance

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"
ROW = re.compile(r"^\| `(/[^`]*)` \| (\w+:\w+) \| (0[0-7]{3}) \|", re.M)


@pytest.mark.once
def test_files_have_the_modes_of_the_page(instance: Instance) -> None:
    """Each row is true; beyond the control socket nothing may be written by group or others, and no program of ours
    takes on another user."""
    machine = instance.machine
    NODE.deploy(instance)
    instance.start()
    rows = ROW.findall(PAGE.read_text())
    assert len(rows) == 10
    user = machine.sh(f"stat -c %u:%g /run/clusterd/{instance.name}").stdout.strip()
    assert 61184 <= int(user.split(":")[0]) <= 65519, "a dynamic user's"
    owners = {"root:root": "0:0", "USER:USER": user}
    for path, owner, mode in rows:
        found = machine.sh(f"stat -c '%u:%g 0%a' {path.replace('NAME', instance.name)}").stdout.splitlines()
        assert found == [f"{owners[owner]} {mode}"], path
    made = f"/run/clusterd/{instance.name} /var/lib/private/clusterd/{instance.name} /usr/share/clusterd /etc/clusterd"
    packaged = '$(dpkg -L clusterd | while read f; do [ -d "$f" ] || echo "$f"; done)'
    loose = machine.sh(f"find {made} {packaged} ! -type l -perm /6022 -printf '%p\\n'").stdout.splitlines()
    assert loose == [f"/run/clusterd/{instance.name}/control"]
