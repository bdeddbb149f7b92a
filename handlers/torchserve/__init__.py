"""The only place that knows `ts`: adapter and codec."""
