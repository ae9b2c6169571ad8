"""A log of what every stream of a gateway that is set up wrongly would say."""

from __future__ import annotations

import logging

from epp.domain.views import Clock

AGAIN_S = 10.0
KINDS_MAX = 100


class SparingLog:
    """Of one message a line in ten seconds, with how many there were since the last."""

    def __init__(self, log: logging.Logger, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}
        """When each was said last, and how often it was left out since."""

    def say(self, level: int, message: str) -> None:
        now = self._clock()
        said_at, left_out = self._said.get(message, (float("-inf"), 0))
        if now - said_at < AGAIN_S:
            self._said[message] = said_at, left_out + 1
            return
        if len(self._said) >= KINDS_MAX:
            self._said.clear()
        self._said[message] = now, 0
        more = f" ({left_out} more times since the last line)" if left_out else ""
        self._log.log(level, "%s%s", message, more)
