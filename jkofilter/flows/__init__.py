"""Flow methods people compare against, one a file: laws carried through a Langevin diffusion without readings."""
