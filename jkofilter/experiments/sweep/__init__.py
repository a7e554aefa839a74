"""The machine that runs experiments."""
