"""Scores a file of answers or of verdicts: python jobs/score.py BENCHMARK --eval-root DIR --answers FILE."""

import sys

from raypipe.cli import main

raise SystemExit(main(["score", *sys.argv[1:]]))
