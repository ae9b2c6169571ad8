"""Clocks that disagree with ours, and tokens that are over. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import msgspec

from epp.doctor.finding import Finding, error, listed, ok, warning

_SOME_S = 5.0
_MUCH_S = 60.0
"""Tokens and certificates are given with about so much room."""
_SYNC = "synchronize the clocks of the machines (chrony, systemd-timesyncd)"


def check_clocks(skews: Mapping[str, float]) -> list[Finding]:
    """By peer: how many seconds it is ahead of us."""
    if not skews:
        return []
    off = {peer: skew_s for peer, skew_s in skews.items() if abs(skew_s) > _SOME_S}
    if not off:
        return [ok("clocks", f"{listed(sorted(skews))} within {_SOME_S:g} s of ours")]
    return [
        (error if abs(skew_s) > _MUCH_S else warning)(
            f"clock of {peer}", f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} ours", _SYNC
        )
        for peer, skew_s in sorted(off.items())
    ]


def check_token(token: bytes, now: float) -> list[Finding]:
    """A service account's token, `now` in seconds since 1970."""
    until = expiry(token)
    if until is None:
        return []
    if until <= now:
        return [
            error(
                "service account token",
                f"it expired {now - until:.0f} s ago",
                "the kubelet renews it: look at the node's clock, and whether the pod mounts a projected one",
            )
        ]
    return [ok("service account token", f"valid for {until - now:.0f} s more")]


def expiry(token: bytes) -> float | None:
    """Seconds since 1970 at which a JSON web token ends; None where it does not say."""
    parts = token.strip().split(b".")
    if len(parts) != 3:
        return None
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return None
    until = claims.get("exp") if isinstance(claims, dict) else None
    return float(until) if isinstance(until, int | float) else None
