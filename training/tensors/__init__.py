"""What the recipes of named tensors share."""
