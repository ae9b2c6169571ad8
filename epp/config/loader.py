"""A configuration's text -> everything that it describes, built and ready, or every reason why not."""

from __future__ import annotations

from pathlib import Path as FilePath

from epp.admission.settings import FlowControlSettings
from epp.config import layers, presets
from epp.config.build import Builder
from epp.config.catalog import Catalog, catalog
from epp.config.decode import BAD, decode
from epp.config.flow import FlowAssembly, tell_closed
from epp.config.gates import FLOW_CONTROL, read_gates
from epp.config.loaded import Loaded
from epp.config.problems import ConfigError, Problem, nearest
from epp.config.profiles import Profiles
from epp.config.resolve import Instances
from epp.config.schema import EndpointPickerConfig, FlowControl
from epp.config.text import MAX_CHARACTERS, parse


def load_file(
    path: str | FilePath, *, allow_experimental: bool = False, plugin_types: Catalog | None = None
) -> Loaded:
    """Raises ConfigError, also when the file cannot be read."""
    source = str(path)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise ConfigError([Problem(source, None, (), f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(source, None, (), f"not UTF-8: byte {error.start}")]) from error
    return load_text(text, source=source, allow_experimental=allow_experimental, plugin_types=plugin_types)


def load_preset(name: str = presets.DEFAULT, *, plugin_types: Catalog | None = None) -> Loaded:
    """A built-in configuration. Raises ConfigError for an unknown name."""
    if name not in presets.PRESETS:
        hint = nearest(name, presets.PRESETS) or f"; there are {', '.join(presets.PRESETS)}"
        words = f"unknown preset '{name}'{hint}"
        raise ConfigError([Problem("--preset", None, (), words)])
    return load_text(presets.PRESETS[name].text, source=f"preset {name}", plugin_types=plugin_types)


def load_text(
    text: str,
    *,
    source: str = "configuration",
    allow_experimental: bool = False,
    plugin_types: Catalog | None = None,
) -> Loaded:
    """`source` is how errors name the text; `plugin_types` replaces the catalog of this installation.

    Raises ConfigError with every problem found.
    """
    value, report = parse(text, source)
    if value is None:
        words = "the configuration is empty; leave it out for the default"
        raise ConfigError([*report.problems, Problem(source, None, (), words)])
    config = decode(value, EndpointPickerConfig, (), report)
    if config is BAD:
        raise ConfigError(report.problems)
    layers.check_header(config, report)
    gates = read_gates(config.feature_gates, report)
    layers.check_blocks(config, report)
    instances = Instances(plugin_types or catalog(), report, allow_experimental)
    instances.declare(config.plugins)
    data = layers.data_instances(config.data_layer, instances)
    detector = layers.detector_instance(config, instances)
    parsers = layers.parser_instances(config, instances)
    instances.add_needs()
    builder = Builder(instances)
    builder.build_all()
    assembly = Profiles(instances, builder)
    profiles = assembly.build(config.scheduling_profiles)
    handler = assembly.handler(profiles)
    built_detector = layers.build_detector(detector, builder)
    built_parsers = layers.build_parsers(parsers, builder)
    settings = layers.data_settings(data, builder)
    flow: FlowControlSettings | None = None
    queues = FlowAssembly(instances, builder)
    if gates[FLOW_CONTROL]:
        scrape_s = settings.scrape.interval_s if settings.scrape is not None else None
        flow = queues.build(config.flow_control or FlowControl(), config.epp, detector, scrape_s)
    else:
        tell_closed(config.flow_control, instances)
    layers.tell_unused(instances)
    report.raise_any()
    assert handler is not None
    assert built_detector is not None
    return Loaded(
        source=source, notices=tuple(report.notices), instances=tuple(instances.known.values()),
        profiles=profiles, handler=handler, plugins=layers.scheduling_steps(instances, builder),
        detector=built_detector, parsers=built_parsers, data=settings, own=config.epp,
        flow=flow, policies=queues.policies,
    )  # fmt: skip
