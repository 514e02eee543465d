"""What finished trials say together."""
