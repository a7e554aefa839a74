"""The past given all readings: smoothing laws and whole paths."""
