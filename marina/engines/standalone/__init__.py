"""The engine without TorchServe: a process that manages (`controller`), and processes that answer (`worker`).

The controller holds the management API and the metrics, and starts the workers, which share the inference
port. Each worker has all registered versions and gathers batches in the process that computes; see
`marina.engines.gateway`. No Java, no request that crosses a process.
"""
