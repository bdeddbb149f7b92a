"""Models measured and looked at: through the endpoint, in episodes, as a report."""
