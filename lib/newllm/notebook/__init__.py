"""The notebook layer: nothing below imports it."""
