"""The parts of a configuration around scheduling: header, gates, data layer, saturation, parsers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from epp.admission.saturation import SaturationDetector
from epp.config.build import Builder
from epp.config.catalog import Kind
from epp.config.data import (
    CORE_EXTRACTOR,
    EXTRACTS,
    FILE_DISCOVERY,
    METRICS_SOURCE,
    MODELS_EXTRACTOR,
    MODELS_SOURCE,
    DataSettings,
    Scrape,
)
from epp.config.decode import fields_of
from epp.config.not_built import BLOCKS, refusal
from epp.config.own import Scraping
from epp.config.problems import Report, choices
from epp.config.resolve import Instance, Instances
from epp.config.schema import (
    API_VERSION,
    DEPRECATED_API_VERSION,
    KIND,
    DataLayer,
    EndpointPickerConfig,
    PluginRef,
)
from epp.datalayer.connection import HttpSource
from epp.parsing.parser import Parser
from epp.parsing.select import default_parsers
from epp.scheduling.profile import Named

DEFAULT_DETECTOR = "utilization-detector"


def check_header(config: EndpointPickerConfig, report: Report) -> None:
    """apiVersion and kind."""
    version, kind = config.api_version, config.kind
    if version == DEPRECATED_API_VERSION:
        report.notice(("apiVersion",), f"'{version}' is deprecated; write '{API_VERSION}'")
    elif version != API_VERSION and not report.blames(("apiVersion",)):
        what = f"unknown apiVersion '{version}'" if version else "'apiVersion' is required"
        report.error(
            ("apiVersion",) if version else (),
            f"{what}; it is {choices([API_VERSION, DEPRECATED_API_VERSION])}",
        )
    if kind != KIND and not report.blames(("kind",)):
        what = f"unknown kind '{kind}'" if kind else "'kind' is required"
        report.error(("kind",) if kind else (), f"{what}; it is '{KIND}'")


def check_blocks(config: EndpointPickerConfig, report: Report) -> None:
    """Fields that are known and not built."""
    layer = config.data_layer
    for field in fields_of(type(layer)):
        name = field.encode_name
        default = [] if field.default_factory is list else field.default
        if name in BLOCKS and getattr(layer, field.name) != default:
            report.error(("dataLayer", name), refusal(f"'{name}'", BLOCKS[name]), key=True)


def data_instances(layer: DataLayer, instances: Instances) -> dict[str, Instance]:
    """The data-layer plugins that are used, by type; metrics are scraped by default."""
    found: dict[str, Instance] = {}
    report = instances.report
    for i, source in enumerate(layer.sources):
        at = ("dataLayer", "sources", i)
        instance = instances.refer(source.plugin_ref, at, Kind.SOURCE)
        if instance is None:
            continue
        if instance.type_name in found:
            report.error(at, refusal(f"a second {instance.type_name}", "one of each type is read"))
        found[instance.type_name] = instance
        for j, reference in enumerate(source.extractors):
            below = (*at, "extractors", j)
            extractor = instances.refer(reference.plugin_ref, below, Kind.EXTRACTOR)
            if extractor is None:
                continue
            if EXTRACTS[extractor.type_name] != instance.type_name:
                report.error(below, f"'{extractor.name}' cannot read '{instance.name}'")
            found[extractor.type_name] = extractor
    if layer.inject_defaults:
        for type_name in (METRICS_SOURCE, CORE_EXTRACTOR):
            if type_name not in found and (added := instances.add(type_name)) is not None:
                instances.taken.add(added.name)
                found[type_name] = added
    if layer.discovery is not None:
        instance = instances.refer(layer.discovery.plugin_ref, ("dataLayer", "discovery"), Kind.DISCOVERY)
        if instance is not None:
            found[FILE_DISCOVERY] = instance
    return found


def data_settings(found: dict[str, Instance], builder: Builder, own: Scraping) -> DataSettings:
    """A source works only together with its extractor."""
    built: dict[str, Any] = {}
    for type_name, instance in found.items():
        step = builder.get(instance)
        built[type_name] = step.plugin if step is not None else None
    scrapes = CORE_EXTRACTOR in found and METRICS_SOURCE in found
    asks = MODELS_EXTRACTOR in found
    return DataSettings(
        scrape=_named(built.get(METRICS_SOURCE), own.server_name) if scrapes else None,
        engines=built.get(CORE_EXTRACTOR) if scrapes else None,
        models=_alike(built.get(MODELS_SOURCE), built.get(METRICS_SOURCE), own.server_name) if asks else None,
        discovery=built.get(FILE_DISCOVERY),
    )


def tell_unverified(found: dict[str, Instance], own: Scraping, report: Report) -> None:
    """Notices for what would only count if certificates were verified."""
    source = found.get(METRICS_SOURCE)
    if source is None or not source.parameters.insecure_skip_verify:
        return
    words = "it has no effect: certificates are not verified unless insecureSkipVerify is false"
    if source.parameters.ca_cert_path:
        report.notice((*source.path, "parameters", "caCertPath"), words)
    if own.server_name:
        report.notice(("epp", "scrape", "serverName"), words)


def _named(scrape: Scrape | None, server_name: str) -> Scrape | None:
    if scrape is None or not server_name:
        return scrape
    return replace(scrape, source=replace(scrape.source, server_name=server_name))


def _alike(models: HttpSource | None, scrape: Scrape | None, server_name: str) -> HttpSource | None:
    """Engines that are asked for their models by https are those that are scraped by https: they show the
    same certificates, and want to see the same."""
    if models is None or scrape is None or not models.scheme == scrape.source.scheme == "https":
        return models
    return replace(
        scrape.source,
        path=models.path,
        port=models.port,
        server_name=server_name,
        offer_gzip=models.offer_gzip,
    )


def detector_instance(config: EndpointPickerConfig, instances: Instances) -> Instance | None:
    """The saturation detector; flowControl's wins over the deprecated one at the top."""
    references: list[tuple[PluginRef, tuple[str, ...]]] = []
    if config.saturation_detector is not None:
        references.append((config.saturation_detector, ("saturationDetector",)))
        words = "'saturationDetector' at the top is deprecated; it belongs into 'flowControl'"
        instances.report.notice(("saturationDetector",), words, key=True)
    if config.flow_control is not None and config.flow_control.saturation_detector is not None:
        references.append((config.flow_control.saturation_detector, ("flowControl", "saturationDetector")))
    found: Instance | None = None
    for reference, at in references or [(PluginRef(), ())]:
        name = reference.plugin_ref
        name_at = (*at, "pluginRef")
        if name:
            found = instances.refer_at(name, name_at, Kind.SATURATION, default=DEFAULT_DETECTOR)
        else:
            found = instances.add(DEFAULT_DETECTOR)
    if found is not None:
        instances.taken.add(found.name)
    return found


def build_detector(instance: Instance | None, builder: Builder) -> Named[SaturationDetector] | None:
    step = builder.get(instance) if instance is not None else None
    if step is None or not isinstance(step.plugin, SaturationDetector):
        return None
    return Named(step.name, step.type_name, step.plugin)


def parser_instances(config: EndpointPickerConfig, instances: Instances) -> list[Instance]:
    """Parsers in their order; empty for the default ones."""
    found = []
    for i, reference in enumerate(config.request_handler.parsers):
        found.append(instances.refer(reference.plugin_ref, ("requestHandler", "parsers", i), Kind.PARSER))
    if config.parser is not None:
        words = "'parser' at the top is deprecated; it belongs into 'requestHandler.parsers'"
        instances.report.notice(("parser",), words, key=True)
        if not found:
            found.append(instances.refer(config.parser.plugin_ref, ("parser",), Kind.PARSER))
    return [instance for instance in found if instance is not None]


def build_parsers(found: list[Instance], builder: Builder) -> tuple[Parser, ...]:
    if not found:
        return tuple(default_parsers())
    steps = [builder.get(instance) for instance in found]
    return tuple(step.plugin for step in steps if step is not None and isinstance(step.plugin, Parser))


def scheduling_steps(instances: Instances, builder: Builder) -> tuple[Named[object], ...]:
    """Built plugins of the scheduling layer, producers before those that need them."""
    kinds = (Kind.SCHEDULING, Kind.SATURATION)
    return tuple(step for name, step in builder.built.items() if instances.known[name].row.kind in kinds)


def tell_unused(instances: Instances) -> None:
    """Notices for listed plugins that nothing refers to, outside of scheduling."""
    for name, instance in instances.known.items():
        if instance.row.kind is not Kind.SCHEDULING and instance.path and name not in instances.taken:
            instances.report.notice(instance.path, f"nothing refers to '{name}'; it has no effect")
