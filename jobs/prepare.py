"""Prepares one dataset: jobs/prepare.yaml, or the yaml named on the command line."""

from raypipe.cli import job

raise SystemExit(job("prepare", __file__))
