"""`clusterd status` and `clusterd list`: what is running, and how it is."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from clusterd.cli import control, files, scheduled, systemd
from clusterd.cli.exits import CommandError, Exit
from clusterd.cli.instances import Instance, InstanceType, Places, places
from clusterd.cli.terminal import age, ranges, table

LIST_PATIENCE = 2.0
"""Seconds one instance may take to answer `list`: one that hangs must not hide the others."""


@click.command(short_help="Show one instance: workers, generations, the last reload.")
@click.argument("instance", metavar="NAME", type=InstanceType())
@click.option("--json", "as_json", is_flag=True, help="Print the status as one JSON object.")
@click.option("--check", is_flag=True, help="One line, and exit status 1 when no worker serves: for health checks.")
def status(instance: Instance, as_json: bool, check: bool) -> None:
    """Show one instance: workers, generations, slots, addresses, the last reload.

    NAME is the name of an application, or the path of a control socket: DIR/control after 'clusterd run --runtime DIR'.
    """
    try:
        found = control.status(instance)
    except CommandError as e:
        manager = systemd.of(instance.place)
        if e.exit_code == Exit.UNREACHABLE and instance.file and (why := manager.problem(instance.name)):
            e.message += f" ({why})"
        raise
    serves = bool((found.get("slots") or {}).get("live"))
    if check and not serves:
        raise CommandError(
            f"{found['name']}: no worker serves: {found.get('problem') or found['summary']}", Exit.REFUSED
        )
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if check:
        click.echo(headline(found))
        return
    summary(found)
    workers(found)
    generations(found)
    if tasks := found.get("tasks"):
        click.echo()
        scheduled.show(instance, tasks)


def headline(found: dict[str, Any]) -> str:
    return f"{found['name']}: {found['state']}, {found['summary']}"


def summary(found: dict[str, Any]) -> None:
    """The lines above the tables: everything an operator asks first."""
    master = found.get("master") or {}
    slots = found.get("slots") or {}
    live = slots.get("live", [])
    click.echo(headline(found))
    rows = [("addresses", ", ".join(found.get("listen", [])))]
    if found.get("problem"):
        rows.insert(0, ("problem", str(found["problem"])))
    if found.get("profile"):
        rows.append(("profile", str(found["profile"])))
    rows.append(("slots", f"{len(live)} of {slots.get('total', '?')} live ({ranges(live)})"))
    if rollout := found.get("rollout"):
        rows.append((rollout["kind"], f"#{rollout['number']} {rollout['phase']}, generation {rollout['generation']}"))
    if bus := found.get("bus"):
        rows.append(("bus", str(bus["problem"] and f"{bus['bus']}: {bus['problem']}" or bus["bus"])))
    if receipt := found.get("receipt"):
        rows.append(("last " + str(receipt.get("kind", "reload")), receipt_line(receipt)))
    since = age(time.time() - master["since"]) if master.get("since") else "?"
    starts = master.get("starts", "?")
    rows.append(("master", f"pid {master.get('pid', '?')}, version {found['version']}, start {starts}, up {since}"))
    width = max(len(title) for title, _ in rows)
    for title, text in rows:
        click.echo(f"  {title:<{width}}  {text}")


def receipt_line(receipt: dict[str, Any]) -> str:
    """A receipt's text, with its reason where the text does not have it."""
    text = str(receipt.get("text") or f"#{receipt.get('number')}: {receipt.get('outcome')}")
    reason = receipt.get("reason")
    return f"{text}: {reason}" if reason and reason not in text else text


def workers(found: dict[str, Any]) -> None:
    columns = (
        *("worker", "slot", "generation", "state", "pid", "age"),
        *("requests", "in flight", "connections", "memory", "cpu", "restarts"),
    )
    rows = [
        (
            str(w["worker"]),
            number(w["slot"]),
            str(w["generation"]),
            w["state"],
            str(w.get("pid") or "-"),
            age(w["age"]),
            number(w.get("requests")),
            number(w.get("in_flight")),
            number(w.get("connections")),
            f"{w.get('memory', 0) / (1 << 20):.1f} MiB",
            f"{w.get('cpu', 0.0):.1f} s",
            number(w.get("restarts", 0)),
        )
        for w in found["workers"]
    ]
    if rows:
        click.echo()
        table(columns, rows, numbers=[column for column in columns if column != "state"])
    for w in found["workers"]:
        if how := w.get("last_end"):
            ago = age(max(0.0, time.time() - w["last_end_at"]))
            click.echo(f"slot {w['slot']}: a worker ended {ago} ago: {how}")


def number(value: int | None) -> str:
    return "-" if value is None else str(value)


def generations(found: dict[str, Any]) -> None:
    columns = ("generation", "state", "mode", "engine", "python", "zygote", "directory")
    rows = [
        tuple(str(g.get(column) if g.get(column) is not None else "-") for column in columns)
        for g in found["generations"]
    ]
    if rows:
        click.echo()
        table(columns, rows, numbers=("generation", "zygote"))
    for generation in found["generations"]:
        if why := generation.get("why"):
            reasons = ", ".join(why) if isinstance(why, list) else str(why)
            click.echo(f"generation {generation['generation']} spawns each worker instead of forking it: {reasons}")


@click.command("list", short_help="List all instances and their states.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of {name, state, summary, problem}.")
@click.pass_context
def list_command(context: click.Context, as_json: bool) -> None:
    """List all instances with a configuration file or a running master.

    An instance that nobody serves is 'stopped'; with an invalid file, its first problem is named. Exits 0 whatever the
    states are.
    """
    where = places(context)
    found = [line(name, where) for name in where.known()]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found:
        table(("name", "state", "summary"), [(f["name"], f["state"], f["problem"] or f["summary"]) for f in found])
    else:
        click.echo(f"no instances: no *.toml in {where.config}")


def line(name: str, where: Places) -> dict[str, Any]:
    """One row of `list`; never raises for one instance's sake."""
    instance = where.instance(name)
    try:
        found = control.status(instance, patience=LIST_PATIENCE)
    except control.NotRunning:
        problem = files.first_problem(instance.file, where.place)
        return {"name": name, "state": "invalid" if problem else "stopped", "summary": "", "problem": problem}
    except CommandError as e:
        return {"name": name, "state": "unknown", "summary": "", "problem": e.message}
    return {"name": name, "state": found["state"], "summary": found["summary"], "problem": found.get("problem")}
