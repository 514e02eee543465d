"""Main training of whole models."""
