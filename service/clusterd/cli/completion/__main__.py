"""`python -m clusterd.cli.completion bash|zsh|fish`: the file on standard output."""

from __future__ import annotations

import sys

from clusterd.cli.completion import bash, fish, tree, zsh
from clusterd.cli.program import clusterd

SHELLS = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}


def script(shell: str) -> str:
    return SHELLS[shell](tree.commands(clusterd), tree.options(clusterd))


if __name__ == "__main__":
    sys.stdout.write(script(sys.argv[1]))
