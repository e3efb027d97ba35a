"""Checks the cluster's head and what it sees: python jobs/doctor.py [--data-root DIR] [--eval-root DIR]."""

import sys

from raypipe.cli import main

raise SystemExit(main(["doctor", *sys.argv[1:]]))
