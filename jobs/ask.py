"""Answers one question: python jobs/ask.py --model M FILE "question"."""

import sys

from raypipe.cli import main

raise SystemExit(main(["ask", *sys.argv[1:]]))
