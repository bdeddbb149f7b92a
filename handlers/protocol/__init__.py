"""Requests, options, replies, errors; KServe v1 and v2. Knows no model."""
