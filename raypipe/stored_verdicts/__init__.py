"""What the references' judges leave on disk, one module a format: read, joined by id, compared by content."""
