"""``raypipe submit``: a verb as a Ray job, followed to its end, with the verb's own exit code."""
