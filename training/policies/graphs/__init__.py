"""Policies as they are exported and served."""
