"""What the recipes for texts share: tokenizers, networks, batches by length, and how good they are."""
