"""Interfaces of others: the gRPC messages of TorchServe and of the Open Inference Protocol. `make proto`
generates the modules from the .proto files.
"""
