"""The plan verb: what a run would read, write, need and cost, and whether it can be scheduled at all."""
