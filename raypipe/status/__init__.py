"""What became of a run, read from its folder alone: no cluster, no Ray."""
