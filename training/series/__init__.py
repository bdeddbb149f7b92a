"""What recipes for series share."""
