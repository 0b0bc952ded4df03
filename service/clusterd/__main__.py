"""The program `clusterd`: dispatches to the daemons before anything heavy is imported, else to the command line.

keeper, usher and master are what starts again after a crash: they must not pay for, nor be able to fail at, importing
click and rich.
"""

from __future__ import annotations

import sys

if not __package__:  # run as a directory, which is how the parts start each other: no environment decides what is found
    sys.path[0] = sys.path[0].rpartition("/")[0]


def main(argv: list[str] | None = None) -> int:
    """Run `clusterd ARGUMENTS`; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    match arguments:
        case ["keeper", *rest]:
            from clusterd import keeper

            return keeper.main(rest)
        case ["usher", *rest]:
            from clusterd import usher

            return usher.main(rest)
        case ["bridge", *rest]:
            from clusterd import bridge

            return bridge.main(rest)
        case ["drain", name]:
            from clusterd import drain

            return drain.main(name)
        case ["--user", "drain", name]:
            from clusterd import drain

            return drain.main(name, user=True)
        case ["master", name]:
            from clusterd import master

            return master.start(name)
        case ["--user", "master", name]:
            from clusterd import master

            return master.start(name, user=True)
        case ["master", *rest]:
            from clusterd import master

            return master.main(rest)
    from clusterd.cli import program

    return program.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
