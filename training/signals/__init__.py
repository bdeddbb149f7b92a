"""What recipes for signals share."""
