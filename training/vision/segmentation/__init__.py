"""What the recipe `segmenter` is made of."""
