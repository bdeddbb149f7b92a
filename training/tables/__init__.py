"""What recipes for rows of a table share."""
