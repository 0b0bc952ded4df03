#!/usr/bin/python3
"""clusterd beside its peers: the same application, one interleaved run, docs/benchmarks.md with its chart.

    tests/bench/bench.py [--quick] [--rounds N] [--minutes N] [--legs wrk,ab,...] [--servers clusterd,uvicorn,...]
                         [--output FILE]

Each leg runs on every server in turn before the next leg begins, and everything again in the next round, so that what
else the machine does falls on all alike. Only ratios within one run mean anything. A peer that fails is a row that
says so; the exit status is 1 when clusterd itself has failed in a leg.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import chart
import goals
import kit
import legs
import page
import plan
import servers
from page import Failures, Figures

LIMIT = 180
"""seconds for one leg of one server"""


@dataclass
class Run:
    """What has been measured so far."""

    sizes: legs.Sizes
    cores: int
    figures: Figures = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    failures: Failures = field(default_factory=dict)
    rounds: int = 0


def main() -> int:
    options = parse()
    kit.prepare()
    run = Run(legs.QUICK if options.quick else legs.FULL, len(os.sched_getaffinity(0)))
    chosen = [server for server in plan.SERVERS if not options.servers or server.name in options.servers]
    load_before = os.getloadavg()[0]
    began = time.monotonic()
    signal.signal(signal.SIGALRM, too_long)
    # also where whoever started it in the background has them ignored: the server under test is stopped then
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    again = 0.0  # seconds that another round takes
    while run.rounds < options.rounds and time.monotonic() - began + again < 60 * options.minutes:
        again = 0.0
        for name in options.legs or plan.LEGS:
            if run.rounds == 0 or name in plan.AGAIN:
                started = time.monotonic()
                for server in chosen:
                    measure(run, name, server)
                again += time.monotonic() - started if name in plan.AGAIN else 0.0
        run.rounds += 1
        # after every round: a run that is ended early has written what it has
        text = write(run, chosen, options.output, load_before)
    print("\n" + text)
    minutes = (time.monotonic() - began) / 60
    print(f"bench: {run.rounds} rounds in {minutes:.0f} minutes" + (f", {options.output}" if options.output else ""))
    ours = {f"{leg} {name}" for leg, name in run.failures if name.startswith("clusterd")}
    if ours:
        print(f"bench: clusterd failed in: {', '.join(sorted(ours))}")
    return 1 if ours else 0


def write(run: Run, chosen: list[type[servers.Server]], output: Path | None, load_before: float) -> str:
    head = heading(run, load_before)
    picture = output.with_suffix(".svg") if output else None
    if picture:
        foot = head[0].split(";")[0] + ", " + machine(run.cores)
        picture.write_text(chart.render(chosen, run.figures, run.failures, foot))
    tables = plan.tables(run.sizes, run.cores)
    text = page.render(
        tables,
        chosen,
        run.figures,
        run.failures,
        goals.goals(run.figures),
        listed(run.notes),
        head,
        picture.name if picture else "",
    )
    if output:
        output.write_text(text)
    return text


def listed(notes: dict[str, list[str]]) -> list[str]:
    return [f"{what}: {'; '.join(dict.fromkeys(found))}" for what, found in notes.items()]


def leave(number: int, _: object) -> None:
    sys.exit(128 + number)


def too_long(*_: object) -> None:
    raise servers.Failed(f"not done within {LIMIT} s")


def measure(run: Run, leg: str, server: type[servers.Server]) -> None:
    if server.legs is not None and leg not in server.legs:
        return
    began = time.monotonic()
    said = f"bench: round {run.rounds + 1} {leg:7} {server.name:16}"
    signal.alarm(LIMIT)
    try:
        found = plan.LEGS[leg](server, run.cores, run.sizes)
    except servers.NotOffered:
        return
    except Exception as e:  # whatever a peer does, the others are measured
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        print(f"{said} failed: {e} [{time.monotonic() - began:.0f} s]", flush=True)
        run.failures.setdefault((leg, server.name), reason)
        return
    finally:
        signal.alarm(0)
    shown = []
    for key, value in found.items():
        if isinstance(value, str):
            about = key.removesuffix(" detail").removesuffix(" note")
            run.notes.setdefault(f"{server.title} ({server.kind}), {about}", []).append(value)
        else:
            run.figures.setdefault((key, server.name), []).append(value)
        shown.append(f"{key} {value if isinstance(value, str) else format(value, ',.2f')}")
    print(f"{said} {'; '.join(shown)} [{time.monotonic() - began:.0f} s]", flush=True)


def heading(run: Run, load_before: float) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in kit.versions().items())
    again = ", ".join(name for name in plan.LEGS if name in plan.AGAIN)
    rounds = "1 round" if run.rounds == 1 else f"medians of {run.rounds} interleaved rounds ({again}; the others once)"
    quick = ", short legs (--quick)" if run.sizes is legs.QUICK else ""
    return [
        f"{datetime.date.today().isoformat()}; {machine(run.cores)}; load average {load_before:.1f} before the run; "
        f"{rounds}{quick}.",
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
    parser.add_argument("--minutes", type=float, default=29, help="begin no round that would end later (default: 29)")
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
