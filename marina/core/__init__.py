"""Spec, paths, errors, files, console, processes: imports nothing else of ours."""
