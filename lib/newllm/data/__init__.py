"""Real text, from documents to token windows."""
