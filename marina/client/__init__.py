"""Clients of a server: sync here, `async_client` over httpx, `grpc_client` over gRPC; one set of rules for all in `exchange`."""

from marina.client.sync_client import Client

__all__ = ["Client"]
