"""What the recipe `detector` is made of."""
