"""What an evaluation server takes: python jobs/export.py BENCHMARK --eval-root DIR --run RUN --out FILE."""

import sys

from raypipe.cli import main

raise SystemExit(main(["export", *sys.argv[1:]]))
