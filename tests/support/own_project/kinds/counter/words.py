"""Text beside the predictor, which travels with it."""

ABOUT = "the numbers to add up"
