#!/usr/bin/python3
"""clusterd beside its peers: the same application, one interleaved run, docs/benchmarks.md with its chart.

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

import chart
import kit
import legs
import page
import plan
import servers
from page import Figures


def main() -> int:
    options = parse()
    kit.prepare()
    sizes = legs.QUICK if options.quick else legs.FULL
    cores = len(os.sched_getaffinity(0))
    chosen = [server for server in plan.SERVERS if not options.servers or server.name in options.servers]
    figures: Figures = {}
    notes: dict[str, list[str]] = {}
    load_before = os.getloadavg()[0]
    began = time.monotonic()
    for round_number in range(1, options.rounds + 1):
        for name in options.legs or plan.LEGS:
            if round_number == 1 or name in plan.AGAIN:
                for server in chosen:
                    measure(round_number, name, server, cores, sizes, figures, notes)
    head = heading(options.rounds, sizes, cores, load_before)
    picture = options.output.with_suffix(".svg") if options.output else None
    if picture:
        picture.write_text(chart.render(chosen, figures, head[0].split(";")[0] + ", " + machine(cores)))
    listed = [f"{what}: {'; '.join(dict.fromkeys(found))}" for what, found in notes.items()]
    text = page.render(plan.tables(sizes, cores), chosen, figures, listed, head, picture.name if picture else "")
    print("\n" + text)
    if options.output:
        options.output.write_text(text)
        print(f"bench: written to {options.output} after {(time.monotonic() - began) / 60:.0f} minutes")
    return 0


def measure(
    round_number: int,
    leg: str,
    server: type[servers.Server],
    cores: int,
    sizes: legs.Sizes,
    figures: Figures,
    notes: dict[str, list[str]],
) -> None:
    began = time.monotonic()
    try:
        found = plan.LEGS[leg](server, cores, sizes)
    except servers.NotOffered:
        return
    except servers.Failed as e:
        print(f"bench: round {round_number} {leg:7} {server.name:16} failed: {e}", flush=True)
        notes.setdefault(f"{server.title} ({server.kind}), {leg}", []).append(str(e).splitlines()[0])
        return
    shown = []
    for key, value in found.items():
        if isinstance(value, str):
            about = key.removesuffix(" detail").removesuffix(" note")
            notes.setdefault(f"{server.title} ({server.kind}), {about}", []).append(value)
        else:
            figures.setdefault((key, server.name), []).append(value)
        shown.append(f"{key} {value if isinstance(value, str) else format(value, ',.2f')}")
    took = time.monotonic() - began
    print(f"bench: round {round_number} {leg:7} {server.name:16} {'; '.join(shown)} [{took:.0f} s]", flush=True)


def heading(rounds: int, sizes: legs.Sizes, cores: int, load_before: float) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in kit.versions().items())
    again = ", ".join(sorted(plan.AGAIN))
    return [
        f"{datetime.date.today().isoformat()}; {machine(cores)}; load average {load_before:.1f} before the run; "
        f"medians of {rounds} interleaved rounds ({again}; the other legs once)"
        + (", short legs (--quick)." if sizes is legs.QUICK else "."),
        f"{versions}.",
    ]


def machine(cores: int) -> str:
    return f"{cores} cores ({cpu_model()}), Linux {platform.release()}"


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="clusterd beside its peers: one interleaved run, one table")
    parser.add_argument("--quick", action="store_true", help="short legs, one round, nothing written")
    parser.add_argument("--rounds", type=int, help="rounds (default: 3, with --quick 1)")
    parser.add_argument("--legs", type=lambda text: text.split(","), help=f"of {','.join(plan.LEGS)}")
    parser.add_argument("--servers", type=lambda text: text.split(","), help="names, as in the table")
    parser.add_argument("--output", type=Path, help="file to write (default: docs/benchmarks.md, with --quick none)")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    whole = not (options.quick or options.legs or options.servers)
    if options.output is None and whole:
        options.output = kit.ROOT / "docs" / "benchmarks.md"
    known = {server.name for server in plan.SERVERS}
    for name, given, allowed in (("legs", options.legs, set(plan.LEGS)), ("servers", options.servers, known)):
        if given and (unknown := set(given) - allowed):
            parser.error(
                f"--{name}: unknown {', '.join(sorted(unknown))}; expected some of {', '.join(sorted(allowed))}"
            )
    return options


if __name__ == "__main__":
    sys.exit(main())
