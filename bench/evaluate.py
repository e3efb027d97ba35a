"""The figures of evaluate: ``python -m bench.evaluate [--only NAME ...] [--pairs N] [--out FILE]``."""

from __future__ import annotations

from bench import judging, overlap, prefixes
from bench.command import Figures, arguments, measure

FIGURES: Figures = {
    "prefix": prefixes.prefix,
    "overhead": prefixes.overhead,
    "overlap": overlap.overlap,
    "judging": judging.figures,
}


def main() -> None:
    measure("evaluate", FIGURES, arguments("evaluate", list(FIGURES)))


if __name__ == "__main__":
    main()
