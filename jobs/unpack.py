"""Media that lie in annotations or videos, as files: python jobs/unpack.py BENCHMARK --eval-root DIR."""

import sys

from raypipe.cli import main

raise SystemExit(main(["unpack", *sys.argv[1:]]))
