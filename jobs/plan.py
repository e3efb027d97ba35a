"""What a run would do, take and cost on this cluster: python jobs/plan.py FILE.yaml [key=value ...]."""

import sys

from raypipe.cli import main

raise SystemExit(main(["plan", *sys.argv[1:]]))
