"""A new version takes over: readiness, comparison, switch, rollback, traffic split."""
