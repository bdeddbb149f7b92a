"""Loops of learning: on-policy, off-policy, rollouts, checkpoints."""
