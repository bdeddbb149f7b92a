"""What the recipe `classifier` is made of."""
