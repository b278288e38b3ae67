"""Convolution of spikes straight into neurons, for inference."""
