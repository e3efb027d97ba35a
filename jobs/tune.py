"""A search over a stage's settings. Settings: jobs/tune.yaml, or the yaml that is named."""

from raypipe.cli import job

raise SystemExit(job("tune", __file__))
