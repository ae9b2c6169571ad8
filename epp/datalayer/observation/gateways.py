"""What gateways let us choose: learned from their streams' body modes and from whether they obey.

A stream's first message tells the body modes, but not whether the gateway takes overrides. So the first
answer that need not be seen is tried: if its body comes all the same, overrides are not allowed there, every
answer is looked at again, and now and then one more is tried, since configurations change. An override that
is ignored loses nothing.
"""

from __future__ import annotations

from enum import StrEnum

from epp.domain.request import AnswerView

_RETRY_S = 60.0
_RETRY_MAX_S = 3600.0


class Mode(StrEnum):
    """What the configuration asks for."""

    ALL = "all"
    SAMPLED = "sampled"
    ENDS = "ends"
    AUTO = "auto"
    """What the gateway permits: sampled where it leaves the choice."""


class Gateway(StrEnum):
    """How a gateway shows answers."""

    ALWAYS = "always"
    """It sends every body: its body modes leave no choice."""
    CHOICE = "choice"
    """It sends those that we ask for."""
    NO_OVERRIDE = "no-override"
    """It would, but for allow_mode_override, or because it does not ask us at the answers' headers."""
    NEVER = "never"
    """It sends none."""


_KINDS = {
    AnswerView.ALWAYS: Gateway.ALWAYS,
    AnswerView.CHOICE: Gateway.CHOICE,
    AnswerView.NEVER: Gateway.NEVER,
}
_WORDS = {
    Gateway.ALWAYS: "the gateway sends the body of every answer",
    Gateway.CHOICE: "the gateway's body modes leave the choice to us",
    Gateway.NO_OVERRIDE: "the gateway sends bodies that need not be sent: allow_mode_override is off there, "
    "or it skips the answers' headers",
    Gateway.NEVER: "the gateway sends no answer's body",
}
_DONE = {
    Mode.ALL: "every answer is looked at",
    Mode.SAMPLED: "answers are looked at as often as timings need it",
    Mode.ENDS: "no answer is looked at; first tokens and usage are estimated",
}


class Gateways:
    """Several may ask one picker, each in its own way."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.known: dict[AnswerView, Gateway] = {}
        """By what streams tell; CHOICE turns to NO_OVERRIDE when it is found out."""
        self._retry_at = 0.0
        self._retry_s = _RETRY_S

    def effect(self, gateway: Gateway) -> Mode:
        """How answers that come this way are looked at."""
        if gateway is Gateway.NEVER:
            return Mode.ENDS
        if gateway is not Gateway.CHOICE:
            return Mode.ALL
        return Mode.SAMPLED if self.mode is Mode.AUTO else self.mode

    def meet(self, view: AnswerView) -> str:
        """A request of this kind came. What to say of it, empty for nothing new."""
        if view in self.known:
            return ""
        self.known[view] = _KINDS[view]
        return self._said(self.known[view])

    def tries(self, now: float) -> bool:
        """Whether overrides that were refused should be tried again with this request."""
        if now < self._retry_at:
            return False
        self._retry_at = now + self._retry_s
        self._retry_s = min(2.0 * self._retry_s, _RETRY_MAX_S)
        return True

    def ignored(self, now: float) -> str:
        """A body came although we said that it need not."""
        if self.known.get(AnswerView.CHOICE) is not Gateway.CHOICE:
            return ""
        self.known[AnswerView.CHOICE] = Gateway.NO_OVERRIDE
        self._retry_at = now + self._retry_s
        return self._said(Gateway.NO_OVERRIDE)

    def obeyed(self) -> str:
        """An answer that was tried again went by unseen."""
        if self.known.get(AnswerView.CHOICE) is not Gateway.NO_OVERRIDE:
            return ""
        self.known[AnswerView.CHOICE] = Gateway.CHOICE
        return self._said(Gateway.CHOICE)

    def _said(self, gateway: Gateway) -> str:
        effect = self.effect(gateway)
        words = f"observe: {self.mode}: {_DONE[effect]} ({_WORDS[gateway]})"
        if self.mode in (Mode.AUTO, effect):
            return words
        return f"{words}; docs/modes.md says which gateway settings '{self.mode}' needs"
