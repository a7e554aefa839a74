"""Learning a model from readings: evidence with its gradient, maximum likelihood, posteriors."""
