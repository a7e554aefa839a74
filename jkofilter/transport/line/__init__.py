"""The quantile engine of the line."""
