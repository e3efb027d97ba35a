"""Judges the open answers of an evaluation: python jobs/judge.py RUN [key=value ...]."""

import sys

from raypipe.cli import main

raise SystemExit(main(["judge", *sys.argv[1:]]))
