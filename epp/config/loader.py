"""A configuration's text -> everything that it describes, built and ready, or every reason why not.

In two steps, for those who reload: `read` takes time and touches nothing, so it may run in a thread;
`assemble` makes plugins, some of which may be in use, so it belongs to the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as FilePath

from epp.admission.settings import FlowControlSettings
from epp.config import layers, presets
from epp.config.build import Builder
from epp.config.catalog import Catalog, catalog
from epp.config.changes import Started, tell_waiting
from epp.config.decode import BAD, decode
from epp.config.flow import FlowAssembly, tell_closed
from epp.config.gates import FLOW_CONTROL, read_gates
from epp.config.loaded import Loaded
from epp.config.own import OwnBlock
from epp.config.problems import ConfigError, Problem, Report, nearest
from epp.config.profiles import Profiles
from epp.config.resolve import Instances
from epp.config.schema import EndpointPickerConfig, FlowControl
from epp.config.text import MAX_CHARACTERS, parse


@dataclass(frozen=True, slots=True)
class Document:
    """A text as the schema has it, any number of times to be assembled. Lesser mistakes are in the report."""

    config: EndpointPickerConfig
    report: Report


def load_file(
    path: str | FilePath,
    *,
    allow_experimental: bool = False,
    plugin_types: Catalog | None = None,
    keep: Loaded | None = None,
) -> Loaded:
    """Raises ConfigError, also when the file cannot be read."""
    text = read_file(path)
    return load_text(
        text, source=str(path), allow_experimental=allow_experimental, plugin_types=plugin_types, keep=keep
    )


def read_file(path: str | FilePath) -> str:
    """Its text, or a little more than may be of it. Raises ConfigError."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise ConfigError([Problem(str(path), None, (), f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), None, (), f"not UTF-8: byte {error.start}")]) from error


def load_preset(name: str = presets.DEFAULT, *, plugin_types: Catalog | None = None) -> Loaded:
    """A built-in configuration. Raises ConfigError for an unknown name."""
    return load_text(preset_text(name), source=f"preset {name}", plugin_types=plugin_types)


def preset_text(name: str = presets.DEFAULT) -> str:
    """Raises ConfigError for an unknown name."""
    if name not in presets.PRESETS:
        hint = nearest(name, presets.PRESETS) or f"; there are {', '.join(presets.PRESETS)}"
        words = f"unknown preset '{name}'{hint}"
        raise ConfigError([Problem("--preset", None, (), words)])
    return presets.PRESETS[name].text


def load_text(
    text: str,
    *,
    source: str = "configuration",
    allow_experimental: bool = False,
    plugin_types: Catalog | None = None,
    keep: Loaded | None = None,
) -> Loaded:
    """`source` is how errors name the text; `plugin_types` replaces the catalog of this installation. Of
    `keep` every plugin is taken over that this text describes just so, with its state.

    Raises ConfigError with every problem found; `keep` is as it was then.
    """
    return assemble(read(text, source), plugin_types or catalog(), allow_experimental, keep)


def read(text: str, source: str) -> Document:
    """Raises ConfigError where nothing can be made of the text."""
    value, report = parse(text, source)
    if value is None:
        words = "the configuration is empty; leave it out for the default"
        raise ConfigError([*report.problems, Problem(source, None, (), words)])
    config = decode(value, EndpointPickerConfig, (), report)
    if config is BAD:
        raise ConfigError(report.problems)
    return Document(config, report)


def assemble(
    document: Document,
    plugin_types: Catalog,
    allow_experimental: bool = False,
    keep: Loaded | None = None,
    *,
    process: OwnBlock | None = None,
) -> Loaded:
    """As `load_text`. `process` is the block `epp:` of the default configuration, where this is another."""
    config, report = document.config, document.report.copy()
    layers.check_header(config, report)
    gates = read_gates(config.feature_gates, report)
    layers.check_blocks(config, report)
    instances = Instances(plugin_types, report, allow_experimental)
    instances.declare(config.plugins)
    data = layers.data_instances(config.data_layer, instances)
    detector = layers.detector_instance(config, instances)
    parsers = layers.parser_instances(config, instances)
    instances.add_needs()
    builder = Builder(instances, keep.built if keep is not None else None)
    builder.build_all()
    assembly = Profiles(instances, builder)
    profiles = assembly.build(config.scheduling_profiles)
    handler = assembly.handler(profiles)
    built_detector = layers.build_detector(detector, builder)
    built_parsers = layers.build_parsers(parsers, builder)
    settings = layers.data_settings(data, builder, config.epp.scrape)
    flow: FlowControlSettings | None = None
    queues = FlowAssembly(instances, builder)
    if gates[FLOW_CONTROL]:
        scrape_s = settings.scrape.interval_s if settings.scrape is not None else None
        flow = queues.build(config.flow_control or FlowControl(), config.epp, detector, scrape_s)
    else:
        tell_closed(config.flow_control, instances)
    layers.tell_unused(instances)
    layers.tell_unverified(data, config.epp.scrape, report)
    if keep is not None:
        started = keep.started
    else:
        started = Started(config.epp, settings.discovery, process or config.epp)
    tell_waiting(started, config.epp, settings.discovery, report)
    report.raise_any()
    assert handler is not None
    assert built_detector is not None
    loaded = Loaded(
        source=report.source, notices=tuple(report.notices), instances=tuple(instances.known.values()),
        profiles=profiles, handler=handler, plugins=layers.scheduling_steps(instances, builder),
        detector=built_detector, parsers=built_parsers, data=settings, own=config.epp,
        flow=flow, policies=queues.policies, built=builder.made, kept=builder.kept, started=started,
    )  # fmt: skip
    return loaded if keep is None else loaded.after(keep)
