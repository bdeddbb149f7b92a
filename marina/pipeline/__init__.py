"""The steps from a spec to a registered, ready model."""
