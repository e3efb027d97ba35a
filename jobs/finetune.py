"""Stage 2: language model and projector learn. Settings: jobs/finetune.yaml, or the yaml that is named."""

from raypipe.cli import job

raise SystemExit(job("train", __file__))
