"""What is registered, kept in a cluster's own control store, so that another controller can take over.

Replicas keep running when the controller ends, on any machine. The next controller that joins takes over
the replicas and the keys that they accept.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ray.experimental import internal_kv

logger = logging.getLogger(__name__)

NAMESPACE, KEY = "marina", "registered"


@dataclass(frozen=True)
class KeptVersion:
    """A version's fields, and how it is deployed; see `fleet.Deployed`. Empty is one without replicas."""

    version: dict[str, Any]
    code: str = ""
    sha256: str = ""
    per_node: int | None = None


@dataclass(frozen=True)
class Kept:
    """The content of the key file, None where nobody needs a key, and the registered versions."""

    keys: Mapping[str, Any] | None
    versions: Sequence[KeptVersion]


class Ledger:
    """The entry of a cluster; nothing where it is not kept, as in a Ray that ends with the controller."""

    def __init__(self, is_kept: bool) -> None:
        self.is_kept = is_kept

    def read(self) -> Kept | None:
        """What an earlier controller has written; None without one, or where it can't be read."""
        content = internal_kv._internal_kv_get(KEY, namespace=NAMESPACE) if self.is_kept else None
        try:
            entry = json.loads(content) if content else None
            return entry and Kept(entry["keys"], [KeptVersion(**version) for version in entry["versions"]])
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("what an earlier controller has registered can't be read: %r", error)
            return None

    def write(self, kept: Kept) -> None:
        """Replace it."""
        if self.is_kept:
            content = json.dumps(asdict(kept)).encode()
            internal_kv._internal_kv_put(KEY, content, overwrite=True, namespace=NAMESPACE)

    def remove(self) -> None:
        """Forget it: nothing is served any more."""
        if self.is_kept:
            internal_kv._internal_kv_del(KEY, namespace=NAMESPACE)
