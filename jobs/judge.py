"""Judges the open answers of an evaluation: python jobs/judge.py RUN [key=value ...].

The key is named by a path that every node can read, or by a variable of the nodes; it is never an argument.
"""

import sys

from raypipe.cli import main

raise SystemExit(main(["judge", *sys.argv[1:]]))
