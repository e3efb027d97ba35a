"""Proves a run: python jobs/verify.py RUN."""

import sys

from raypipe.cli import main

raise SystemExit(main(["verify", *sys.argv[1:]]))
