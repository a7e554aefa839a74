"""Families of convex potentials, whose gradients are the maps."""
