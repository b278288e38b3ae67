"""Leaky integrate-and-fire."""
