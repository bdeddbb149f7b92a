"""Load: the locust run, the load generator, and tuning by it."""
