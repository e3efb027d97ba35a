"""Evaluates one model on many benchmarks: jobs/evaluate.yaml, or the yaml named on the command line."""

from raypipe.cli import job

raise SystemExit(job("evaluate", __file__))
