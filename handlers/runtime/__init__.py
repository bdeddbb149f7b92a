"""What every kind needs to run: runtimes, start-up, golden samples, checksums, telemetry."""
