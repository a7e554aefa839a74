"""Convex potentials, Brenier maps, and the JKO step."""
