"""Clients of a served model, their request options and their errors.

`Client` is here, `marina.client.async_client` has it for asyncio, `marina.client.grpc_client` for gRPC. The
rules of deadlines, retries and tokens are the same for all: `marina.client.exchange`.
"""

from marina.client.jobs import AsyncJob, Job
from marina.client.request_options import (
    CallOptions,
    EndpointOptions,
    JobOptions,
    ManyJobOptions,
    ManyOptions,
    RequestOptions,
    SlicedOptions,
)
from marina.client.streams import StreamItem
from marina.client.sync_client import Client
from marina.core.errors import (
    CallError,
    MarinaError,
    RequestError,
    RequestRefused,
    ServerError,
    ServerFault,
    ServerUnavailable,
)

__all__ = [
    "AsyncJob",
    "CallError",
    "CallOptions",
    "Client",
    "EndpointOptions",
    "Job",
    "JobOptions",
    "ManyJobOptions",
    "ManyOptions",
    "MarinaError",
    "RequestError",
    "RequestOptions",
    "RequestRefused",
    "ServerError",
    "ServerFault",
    "ServerUnavailable",
    "SlicedOptions",
    "StreamItem",
]
