"""How other people's annotation and answer files are laid out: one module a format, read or written."""
