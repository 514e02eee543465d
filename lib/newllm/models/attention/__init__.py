"""One short file a way of remembering."""
