"""Stage 2 with LoRA. Settings: jobs/finetune_lora.yaml, or the yaml named on the command line."""

from raypipe.cli import job

raise SystemExit(job("train", __file__))
