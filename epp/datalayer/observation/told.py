"""What an engine's own metrics tell of first tokens: how many there were and how long they took together.

Where no answer is looked at, this stands in for it, twice. Engines prefill in turn, so each first token that
is counted is that of the request that waits longest: the ledger follows with the scrapes. And the mean that
the engine tells is the mean that estimates should give for what we sent: slope = (mean seconds - base) / mean
tokens, over about the last fifty requests; by it a request's first token is believed to have come when the
counts do not say so in time. Requests of others are counted too: of the engine's first tokens as large a
share is taken for ours as we sent of them.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from epp.datalayer.observation.line import TOKEN_MAX_S
from epp.domain.snapshot import NEVER

_DECAY = 0.98
"""Of what was known, kept at each first token."""
_ENOUGH = 4.0
"""Requests, ours and the engine's, from which on it is believed."""
_LIVE_S = 2.0
"""Counts that are older say nothing of now."""
_GAP_S = 30.0
"""Between two readings, from which on the second is a new beginning: scrapes are at most 10 s apart."""
_DEBT_MAX = 8.0
_SHARE_PRIOR = 25.0
"""All are taken for ours until that many say otherwise: those that were sent before the first count was read
look like another's."""
_QUEUE = 4096
"""Requests that wait for counts; more only where an engine's counts stand still."""
_MOSTLY = 0.8
"""From this share on all first tokens are taken for ours: what is on its way makes it waver."""


class Waiting(Protocol):
    """A request of ours whose first token has not been told."""

    @property
    def settled(self) -> bool:
        """Its first token came, or it is over."""

    def first_token(self) -> None: ...


class Told:
    """One engine, or all."""

    __slots__ = (
        "_base_s", "_count", "_credit", "_new", "_new_tokens", "_ours", "_queue", "_seconds",
        "_share_all", "_share_ours", "_theirs", "_tokens", "_told_at", "_total_s", "base_s", "enough",
        "token_s",
    )  # fmt: skip

    def __init__(self, base_s: float) -> None:
        self._base_s = base_s
        self._told_at = NEVER
        self._count = self._total_s = 0.0
        self._theirs = self._seconds = 0.0
        self._ours = self._tokens = 0.0
        self._new = self._new_tokens = 0.0
        """Of ours, since the last count."""
        self._share_ours = self._share_all = _SHARE_PRIOR
        """Requests that we sent, and first tokens."""
        self._queue: deque[Waiting] = deque(maxlen=_QUEUE)
        """In the order in which they were sent."""
        self._credit = 0.0
        """First tokens that were counted and not given to a request; below 0 where counts have to follow."""
        self.enough = False
        """The line below is to be believed."""
        self.base_s = self.token_s = 0.0

    def sent(self, tokens: float) -> None:
        """A request of ours is behind so many tokens of prefill, its own included."""
        self._new += 1.0
        self._new_tokens += tokens

    def wait(self, request: Waiting, now: float) -> bool:
        """It is to be told by counts. False: there are none."""
        if now - self._told_at >= _LIVE_S:
            return False
        queue = self._queue
        if queue and queue[0].settled:
            self._drop_settled()
        queue.append(request)
        return True

    def counts(self, count: float, total_s: float, now: float) -> tuple[float, float, float, float]:
        """The engine's running counts: first tokens so far, and their seconds. What is new of both, and of
        what we sent: requests and tokens."""
        new, seconds = count - self._count, total_s - self._total_s
        gap_s = now - self._told_at
        self._count, self._total_s, self._told_at = count, total_s, now
        if gap_s > _GAP_S or new < 0.0 or seconds < 0.0:  # nobody asked meanwhile, or it began anew
            self._queue.clear()
            self._credit = self._new = self._new_tokens = 0.0
            self._share_ours = self._share_all = _SHARE_PRIOR
            return 0.0, 0.0, 0.0, 0.0
        more = new, seconds, self._new, self._new_tokens
        if new:
            self._new = self._new_tokens = 0.0
            self.more(*more)
            self._give(new)
        return more

    def more(self, new: float, seconds: float, ours: float, tokens: float) -> None:
        """So many more first tokens, which took so long together, and so much more that we sent."""
        keep = _DECAY**new
        self._theirs = self._theirs * keep + new
        self._seconds = self._seconds * keep + seconds
        self._ours = self._ours * keep + ours
        self._tokens = self._tokens * keep + tokens
        self._share_ours = self._share_ours * keep + ours
        self._share_all = self._share_all * keep + new
        self.enough = self._theirs >= _ENOUGH and self._ours >= _ENOUGH and self._tokens > 0.0
        if self.enough:
            mean_s = self._seconds / self._theirs
            self.base_s = min(self._base_s, 0.5 * mean_s)
            self.token_s = min((mean_s - self.base_s) * self._ours / self._tokens, TOKEN_MAX_S)

    def _give(self, new: float) -> None:
        queue = self._queue
        self._drop_settled()
        share = self._share_ours / self._share_all
        self._credit += new * (share if share < _MOSTLY else 1.0)
        while queue and self._credit >= 1.0:
            self._credit -= 1.0
            queue.popleft().first_token()
            self._drop_settled()
        if not queue or self._credit < 0.0:
            # What was owed should be in the count by now; that it is not always is the share's error.
            self._credit = 0.5 * min(self._credit, 0.0)

    def _drop_settled(self) -> None:
        """Those whose first token came otherwise: the count holds theirs as well."""
        queue = self._queue
        while queue and queue[0].settled:
            queue.popleft()
            self._credit = max(self._credit - 1.0, -_DEBT_MAX)
