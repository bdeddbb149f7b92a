"""The hosts of a client: which one a request goes to, and which of them are doubtful.

Requests take turns among the hosts. One that failed is doubtful, and so is one that was never asked: it is
probed (GET /ping) before a request goes there. After a failure it rests, as long as another host answers.
"""

import itertools
import re
import time
from collections.abc import Collection, Iterator, Sequence

PROBE_SECONDS = 2.0  # for a host to answer a probe
LOCAL = re.compile(r"http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?($|/)")
SETTLE_SECONDS = 0.2  # before another host is asked, which notices a lost node a moment later
REST_SECONDS = 5.0  # from a failure to the next probe


class Hosts:
    """The addresses of the same server's inference APIs. Threads may share it: each change is one step."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = tuple(urls)
        self._turn = itertools.count()
        self._doubtful = set(urls) if len(urls) > 1 else set()
        self._failed_at: dict[str, float] = {}

    def are_local(self) -> bool:
        """Whether all of them are this machine's own loopback addresses."""
        return all(LOCAL.match(url) for url in self.urls)

    def in_turn(self, tried: Collection[str]) -> Iterator[str]:
        """The hosts, the best one first: not resting, not yet `tried`, whose turn it is."""
        first = next(self._turn) % len(self.urls)
        urls = self.urls[first:] + self.urls[:first]
        yield from sorted(urls, key=lambda url: (self._rests(url), url in tried))

    def is_doubtful(self, url: str) -> bool:
        """Whether it is to be probed first."""
        return url in self._doubtful

    def has_another(self, tried: Collection[str]) -> bool:
        """Whether there is a host that is neither `tried` nor resting."""
        return any(url not in tried and not self._rests(url) for url in self.urls)

    def set_answered(self, url: str) -> None:
        """It answers: requests go there."""
        self._doubtful.discard(url)
        self._failed_at.pop(url, None)

    def set_failed(self, url: str) -> None:
        """It gave no answer; the only host of a client stays as it is."""
        if len(self.urls) > 1:
            self._doubtful.add(url)
            self._failed_at[url] = time.monotonic()

    def _rests(self, url: str) -> bool:
        return time.monotonic() - self._failed_at.get(url, float("-inf")) < REST_SECONDS
