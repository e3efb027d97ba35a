"""What every bench command does: run the figures asked for, keep the others, write file and page."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import machine, page
from bench.figure import Figure
from bench.pairs import PAIRS

BUSY = 1.0  # load average from which a figure says that the machine had other work
Figures = dict[str, Callable[[int], Iterator[Figure]]]


def arguments(verb: str, names: list[str]) -> argparse.Namespace:
    """``--only NAME ...``, ``--pairs N``, ``--out FILE``."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{verb}")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--out", default=f"docs/measured/{verb}.json")
    return parser.parse_args()


def facts_of(verb: str) -> dict[str, Any]:
    """When, by which command and on what is measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": " ".join([f"python -m bench.{verb}", *sys.argv[1:]]),
        "machine": machine.facts(),
    }


def measure(verb: str, figures: Figures, asked: argparse.Namespace) -> None:
    """Prints one JSON line a figure and writes all of them, with what they were measured on.

    Figures that were not asked for keep what the file already says of them.
    """
    out = Path(asked.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    facts = facts_of(verb)
    before = json.loads(out.read_text())["figures"] if out.exists() else []
    done: dict[str, Figure] = {f["name"]: f for f in before}
    for name in [n for n in figures if n in asked.only]:
        started, load = time.perf_counter(), round(os.getloadavg()[0], 2)
        for made in figures[name](asked.pairs):
            made |= {"group": name, "date": facts["date"], "load_at_start": load}
            if load > BUSY:
                made.setdefault("note", f"the machine had other work: load average {load} at the start")
            made["took_s"] = round(time.perf_counter() - started, 1)
            started = time.perf_counter()
            print(json.dumps(made), flush=True)
            done[made["name"]] = made
            order = list(figures)
            rows = sorted(done.values(), key=lambda f: order.index(f["group"]))
            write(out, {**facts, "figures": rows}, lambda found: page.page(found, verb))


def write(out: Path, found: dict[str, Any], render: Callable[[dict[str, Any]], Iterator[str]]) -> None:
    """The figures as JSON, and beside it the page that a person reads."""
    out.write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text("\n".join(render(found)) + "\n")
