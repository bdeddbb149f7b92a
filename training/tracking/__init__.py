"""Experiment trackers: MLflow and Weights & Biases, through Lightning's loggers."""
