"""EndpointPickerConfig as types: every field of the reference picker's format, and our own block `epp:`.

Every field has a default, so that one mistake does not hide the next; what must be there is checked when
names are resolved.
"""

from __future__ import annotations

from typing import Any

import msgspec

from epp.config.own import OwnBlock
from epp.config.quantities import Duration, Limit

API_VERSION = "llm-d.ai/v1alpha1"
DEPRECATED_API_VERSION = "inference.networking.x-k8s.io/v1alpha1"
KIND = "EndpointPickerConfig"


class _Block(msgspec.Struct, kw_only=True, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


class PluginSpec(_Block, frozen=True):
    """One instance of a plugin; `name` defaults to its type."""

    name: str = ""
    type: str = ""
    parameters: Any = None


class PluginRef(_Block, frozen=True):
    plugin_ref: str = ""


class ProfilePlugin(_Block, frozen=True):
    plugin_ref: str = ""
    weight: float | None = None


class ProfileSpec(_Block, frozen=True):
    name: str = ""
    plugins: list[ProfilePlugin] = []


class SourceSpec(_Block, frozen=True):
    plugin_ref: str = ""
    extractors: list[PluginRef] = []


class DataLayer(_Block, frozen=True):
    inject_defaults: bool = True
    sources: list[SourceSpec] = []
    discovery: PluginRef | None = None
    peer_discovery: PluginRef | None = None
    cross_replica_syncer_plugin_ref: str = ""
    cross_replica_sync_interval: Duration | None = None


class Band(_Block, frozen=True):
    """Queue limits and policies of one priority, or of all that have no entry of their own."""

    priority: int = 0
    """Has no meaning for those."""
    max_bytes: Limit | None = None
    max_requests: Limit | None = None
    fairness_policy_ref: str = ""
    ordering_policy_ref: str = ""


class FlowControl(_Block, frozen=True):
    max_bytes: Limit | None = None
    max_requests: Limit | None = None
    default_request_ttl: Duration | None = msgspec.field(default=None, name="defaultRequestTTL")
    no_endpoint_request_ttl: Duration | None = msgspec.field(default=None, name="noEndpointRequestTTL")
    default_priority_band: Band | None = None
    default_negative_priority_band: Band | None = None
    priority_bands: list[Band] = []
    usage_limit_policy_plugin_ref: str = ""
    saturation_detector: PluginRef | None = None
    enable_eviction: bool = False


class RequestHandler(_Block, frozen=True):
    parsers: list[PluginRef] = []


class EndpointPickerConfig(_Block, frozen=True):
    """The whole document. `saturationDetector` and `parser` at the top are the deprecated places."""

    api_version: str = ""
    kind: str = ""
    feature_gates: list[str] = []
    plugins: list[PluginSpec] = []
    scheduling_profiles: list[ProfileSpec] = []
    data_layer: DataLayer = DataLayer()
    flow_control: FlowControl | None = None
    request_handler: RequestHandler = RequestHandler()
    saturation_detector: PluginRef | None = None
    parser: PluginRef | None = None
    epp: OwnBlock = OwnBlock()
