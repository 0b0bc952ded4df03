#!/usr/bin/python3
"""clusterd beside its peers: the same application, one interleaved run, one table in docs/benchmarks.md.

    tests/bench/bench.py [--quick] [--rounds N] [--legs wrk,ab,...] [--servers clusterd,uvicorn,...] [--output FILE]

Each leg runs on every server in turn before the next leg begins, and everything again in the next round, so that what
else the machine does falls on all alike. Only ratios within one run mean anything.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import time
from pathlib import Path

import legs
import servers
import table

Figures = dict[tuple[str, str], list[float]]


def main() -> int:
    options = parse()
    servers.prepare()
    sizes = legs.QUICK if options.quick else legs.FULL
    cores = len(os.sched_getaffinity(0))
    chosen = [server for server in servers.ALL if not options.servers or server.name in options.servers]
    figures: Figures = {}
    notes: list[str] = []
    load_before = os.getloadavg()[0]
    for round_number in range(1, options.rounds + 1):
        for name in options.legs or legs.LEGS:
            for server in chosen:
                measure(round_number, name, server, cores, sizes, figures, notes)
    rows = legs.rows(sizes, cores)
    text = table.render(
        rows,
        [server.name for server in chosen],
        figures,
        notes,
        head=heading(options.rounds, sizes, cores, load_before),
    )
    print("\n" + text)
    if options.output:
        options.output.write_text(text)
        print(f"bench: written to {options.output}")
    return 0


def measure(
    round_number: int,
    leg: str,
    server: type[servers.Server],
    cores: int,
    sizes: legs.Sizes,
    figures: Figures,
    notes: list[str],
) -> None:
    began = time.monotonic()
    try:
        found = legs.LEGS[leg](server, cores, sizes)
    except servers.Failed as e:
        first = str(e).splitlines()[0]
        print(f"bench: round {round_number} {leg:7} {server.name:13} failed: {e}", flush=True)
        notes.append(f"{server.name}, {leg}, round {round_number}: {first}")
        return
    shown = []
    for key, value in found.items():
        if isinstance(value, str):
            notes.append(
                f"{server.name}, {key.removesuffix(' detail').removesuffix(' note')}, round {round_number}: {value}"
            )
        else:
            figures.setdefault((key, server.name), []).append(value)
        shown.append(f"{key} {value if isinstance(value, str) else format(value, ',.1f')}")
    took = time.monotonic() - began
    print(f"bench: round {round_number} {leg:7} {server.name:13} {'; '.join(shown)} [{took:.0f} s]", flush=True)


def heading(rounds: int, sizes: legs.Sizes, cores: int, load_before: float) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in servers.versions().items())
    return [
        f"{datetime.date.today().isoformat()}; {cores} cores ({cpu_model()}), Linux {platform.release()}; "
        f"load average {load_before:.1f} before the run; medians of {rounds} interleaved rounds"
        + (", short legs (--quick)." if sizes is legs.QUICK else "."),
        f"{versions}.",
    ]


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="clusterd beside its peers: one interleaved run, one table")
    parser.add_argument("--quick", action="store_true", help="short legs, one round, nothing written")
    parser.add_argument("--rounds", type=int, help="rounds (default: 3, with --quick 1)")
    parser.add_argument("--legs", type=lambda text: text.split(","), help=f"of {','.join(legs.LEGS)}")
    parser.add_argument("--servers", type=lambda text: text.split(","), help="names, as in the table")
    parser.add_argument("--output", type=Path, help="file to write (default: docs/benchmarks.md, with --quick none)")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    whole = not (options.quick or options.legs or options.servers)
    if options.output is None and whole:
        options.output = servers.ROOT / "docs" / "benchmarks.md"
    known = {server.name for server in servers.ALL}
    for name, given, allowed in (("legs", options.legs, set(legs.LEGS)), ("servers", options.servers, known)):
        if given and (unknown := set(given) - allowed):
            parser.error(
                f"--{name}: unknown {', '.join(sorted(unknown))}; expected some of {', '.join(sorted(allowed))}"
            )
    return options


if __name__ == "__main__":
    sys.exit(main())
