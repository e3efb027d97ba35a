"""Reports on finished runs: python jobs/report.py RUN... [--out DIR]."""

import sys

from raypipe.cli import main

raise SystemExit(main(["report", *sys.argv[1:]]))
