"""Searches of training settings: trials, their page, the spec of the best."""
