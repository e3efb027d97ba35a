"""The figures of prepare: ``python -m bench.prepare [--only NAME ...] [--pairs N] [--out FILE]``."""

from __future__ import annotations

import json
from pathlib import Path

from bench import decoding, random_read, rendition, runs
from bench.command import Figures, arguments, facts_of, measure, write

FIGURES: Figures = {
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
    asked = arguments("prepare", [*FIGURES, RENDITION])
    measure("prepare", FIGURES, asked)
    if RENDITION in asked.only:
        rows, facts = rendition.table(), facts_of("prepare")
        print(json.dumps({"name": RENDITION, "rows": len(rows)}), flush=True)
        flat = {**facts["machine"], **facts}
        out = Path(asked.out).with_name("rendition.json")
        write(out, {**facts, "rows": rows}, lambda found: rendition.page(found["rows"], flat))


if __name__ == "__main__":
    main()
