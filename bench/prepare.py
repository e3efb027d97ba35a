"""The figures of prepare: ``python -m bench.prepare [--only NAME ...] [--pairs N] [--out FILE]``.

Prints one JSON line a figure and writes all of them, with what they were measured on, to FILE and to a page
beside it. Figures that were not asked for keep what FILE already says of them.
"""

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

from bench import decoding, machine, page, random_read, rendition, runs
from bench.figure import Figure
from bench.pairs import PAIRS

FIGURES: dict[str, Callable[[int], Iterator[Figure]]] = {
    "long_gop": decoding.long_gop,
    "short_gop": decoding.short_gop,
    "real_clips": decoding.real_clips,
    "memory": decoding.memory,
    "random_read": random_read.random_read,
    "to_shards": runs.to_shards,
    "ray_tax": runs.ray_tax,
    "ten_questions": runs.ten_questions,
    "damaged": runs.damaged,
}
RENDITION = "rendition"


def main() -> None:
    asked = _arguments()
    out = Path(asked.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": " ".join(["python -m bench.prepare", *sys.argv[1:]]),
        "machine": machine.facts(),
    }
    before = json.loads(out.read_text())["figures"] if out.exists() else []
    done: dict[str, Figure] = {f["name"]: f for f in before}
    for name in [n for n in FIGURES if n in asked.only]:
        started, load = time.perf_counter(), round(os.getloadavg()[0], 2)
        for made in FIGURES[name](asked.pairs):
            made |= {"group": name, "date": facts["date"], "load_at_start": load}
            made["took_s"] = round(time.perf_counter() - started, 1)
            started = time.perf_counter()
            print(json.dumps(made), flush=True)
            done[made["name"]] = made
            order = list(FIGURES)
            figures = sorted(done.values(), key=lambda f: order.index(f["group"]))
            _write(out, {**facts, "figures": figures}, page.page)
    if RENDITION in asked.only:
        rows = rendition.table()
        print(json.dumps({"name": RENDITION, "rows": len(rows)}), flush=True)
        flat = {**facts["machine"], **facts}
        _write(
            out.with_name("rendition.json"),
            {**facts, "rows": rows},
            lambda f: rendition.page(f["rows"], flat),
        )


def _arguments() -> argparse.Namespace:
    names = [*FIGURES, RENDITION]
    parser = argparse.ArgumentParser(prog="python -m bench.prepare", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--out", default="docs/measured/prepare.json")
    return parser.parse_args()


def _write(out: Path, found: dict[str, Any], render: Callable[[dict[str, Any]], Iterator[str]]) -> None:
    out.write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text("\n".join(render(found)) + "\n")


if __name__ == "__main__":
    main()
