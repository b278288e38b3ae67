"""File formats of event cameras: bytes to columns, recordings to bytes."""
