"""Profile handlers: which scheduling profile a request runs through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from epp.domain.decision import ProfileRun
from epp.domain.errors import Reason, Refused
from epp.scheduling.contract import BuildContext, Cycle, NoParameters, PluginType


class SingleProfile:
    """Runs the one profile there is."""

    def next_profiles(self, cycle: Cycle, runs: Mapping[str, ProfileRun]) -> Sequence[str]:
        return () if runs else cycle.profiles[:1]

    def primary(self, cycle: Cycle, runs: Mapping[str, ProfileRun]) -> str:
        return next(iter(runs))


class HeaderProfileParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    header_name: Annotated[
        str, Meta(min_length=1, description="request header that names the scheduling profile")
    ] = "EPP-Profile"
    default_profile: Annotated[str, Meta(min_length=1, description="profile without the header")] = "decode"


class HeaderProfile:
    """Runs the profile that a request header names. An unknown name is refused with 429, as by the reference
    picker; the message says which name it was."""

    def __init__(self, parameters: HeaderProfileParameters) -> None:
        self._header = parameters.header_name.lower()
        self._default = parameters.default_profile

    def next_profiles(self, cycle: Cycle, runs: Mapping[str, ProfileRun]) -> Sequence[str]:
        if runs:
            return ()
        name = cycle.request.headers.get(self._header, "").strip() or self._default
        if name not in cycle.profiles:
            known = ", ".join(cycle.profiles)
            raise Refused(
                Reason.NO_ENDPOINT_LEFT,
                f"header {self._header!r} : {name!r} is no profile of {known}",
            )
        return (name,)

    def primary(self, cycle: Cycle, runs: Mapping[str, ProfileRun]) -> str:
        return next(iter(runs))


def _single(parameters: NoParameters, context: BuildContext) -> SingleProfile:
    return SingleProfile()


def _header(parameters: HeaderProfileParameters, context: BuildContext) -> HeaderProfile:
    return HeaderProfile(parameters)


PLUGINS = (
    PluginType("single-profile-handler", NoParameters, _single, "runs the only profile"),
    PluginType(
        "header-profile-handler",
        HeaderProfileParameters,
        _header,
        "runs the profile that a request header names",
        alpha=True,
    ),
)
