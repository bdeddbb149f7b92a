"""TorchServe as an engine: `java` starts it, `snapshots` say what it has registered."""
