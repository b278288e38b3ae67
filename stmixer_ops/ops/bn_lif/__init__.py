"""Batch normalisation, residual sum and LIF in one pass."""
