"""Spikes as bits and back."""
