"""Merges an adapter into its base: python jobs/merge.py --adapter RUN --model-base B --out DIR."""

import sys

from raypipe.cli import main

raise SystemExit(main(["merge", *sys.argv[1:]]))
