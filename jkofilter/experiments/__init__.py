"""Experiments: what is compared, and the machine that runs and reports it."""
