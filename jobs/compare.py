"""Compares two evaluations: python jobs/compare.py RUN_A RUN_B."""

import sys

from raypipe.cli import main

raise SystemExit(main(["compare", *sys.argv[1:]]))
