"""How many replicas a version has, and how many of them on a node."""

from dataclasses import dataclass
from typing import Any

UPSCALE_SECONDS, DOWNSCALE_SECONDS = 5, 60  # for how long load has to be so


@dataclass(frozen=True)
class Scale:
    """How many replicas a version has: at least, at most, and how many requests of each are reason for one
    more.
    """

    least: int
    most: int
    target: int = 1

    def options(self) -> dict[str, Any]:
        """As a deployment has it."""
        if self.most == self.least:
            return {"num_replicas": self.least}
        bounds = {"min_replicas": self.least, "initial_replicas": self.least, "max_replicas": self.most}
        pace = {"upscale_delay_s": UPSCALE_SECONDS, "downscale_delay_s": DOWNSCALE_SECONDS}
        return {"autoscaling_config": {**bounds, **pace, "target_ongoing_requests": self.target}}


def per_node_of(scale: Scale, nodes: int) -> int | None:
    """How many replicas a node may have, so that they find room on one node less and, if there are several,
    are on more than one; None where there is but one node.
    """
    if nodes < 2:
        return None
    room_on_the_others = -(-scale.most // (nodes - 1))
    not_all = max(-(-scale.most // nodes), scale.least - 1)
    return min(room_on_the_others, not_all)
