"""Marina carries a PyTorch model from its data to a released endpoint."""

__version__ = "0.1.0"
