"""Environments: made, vectorized, observed."""
