"""Export -> archive, and what can be read off an archive."""
