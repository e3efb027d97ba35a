"""One stage: python jobs/train.py STAGE.yaml [key=value ...]. The usual stages have their own scripts."""

import sys

from raypipe.cli import main

raise SystemExit(main(["train", *sys.argv[1:]]))
