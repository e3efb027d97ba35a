"""The whole platform on clips it draws itself: python jobs/demo.py --out DIR."""

import sys

from raypipe.cli import main

raise SystemExit(main(["demo", *sys.argv[1:]]))
