"""Learning to learn: a start from which a few gradient steps are enough."""
