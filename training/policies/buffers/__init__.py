"""Experience replay: uniform, prioritized, of sequences."""
