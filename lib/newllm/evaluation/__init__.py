"""Measures of a trained model: quality, bytes, causality."""
