"""Spiking token mixing, alone and with a LIF as its epilogue."""
