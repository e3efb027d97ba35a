"""Our own faults on a user's own configuration, in a scratch folder, and the proof that they did no harm."""
