"""What the recipes for pictures and clips share."""
