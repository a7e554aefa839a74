"""Published flow methods to compare with, one a file: laws carried through a Langevin diffusion without readings."""
