"""One training run: checkpoints, resuming, logs, provenance, devices."""
