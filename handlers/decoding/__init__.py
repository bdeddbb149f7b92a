"""Answers that are made token by token: one loop for all models and searches."""
