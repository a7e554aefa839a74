"""Laws that maps carry: beliefs, fitted laws, and their storage."""
