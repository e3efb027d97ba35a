"""Stage 1: the projector learns. Settings: jobs/pretrain.yaml, or the yaml named on the command line."""

from raypipe.cli import job

raise SystemExit(job("train", __file__))
