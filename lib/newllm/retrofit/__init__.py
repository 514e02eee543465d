"""A trained checkpoint in, a model with a smaller cache out."""
