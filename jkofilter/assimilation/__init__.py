"""Bayes by tempering in the base space of the maps."""
