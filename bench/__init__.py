"""Benchmarks: every speed is a ratio against a peer in the same run (``make bench``)."""
