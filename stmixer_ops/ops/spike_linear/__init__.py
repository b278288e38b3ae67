"""Linear maps of spikes that save bits for backward."""
