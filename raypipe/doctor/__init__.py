"""The doctor verb: is this machine, this data root, this store ready? Each finding has its fix."""
