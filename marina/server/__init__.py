"""TorchServe as a process of ours: `torchserve` starts and stops it, `supervisor` keeps it alive, `snapshots` bring its models back."""

from marina.server.torchserve import (
    STOP_SECONDS,
    State,
    TorchServe,
    check_claimable,
    free_port_base,
    log_tail,
    read_state,
    running_server,
    stop,
    was_started,
    written_state,
)

__all__ = [
    "STOP_SECONDS",
    "State",
    "TorchServe",
    "check_claimable",
    "free_port_base",
    "log_tail",
    "read_state",
    "running_server",
    "stop",
    "was_started",
    "written_state",
]
