"""What a reload takes over: the very plugins that would be made again, with their state."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from epp.config.catalog import Catalog, Kind, Row
from epp.config.changes import Changes
from epp.config.loaded import Loaded
from epp.config.loader import assemble, load_text, read
from epp.config.presets import PRESETS
from epp.datalayer.inflight import Ledger
from epp.scheduling.contract import BuildContext, NoParameters, PluginType
from tests.builders import request, snapshot
from tests.unit.config.configs import HEADER, TYPES, notices

BASE = """\
featureGates: [flowControl]
plugins:
- {type: approx-prefix-cache-producer, parameters: {blockSizeTokens: 64}}
- {type: prefix-cache-scorer}
- {type: queue-scorer}
- {name: sessions, type: session-affinity-scorer, parameters: {strategy: session_id}}
- {type: vtc-fairness-policy, parameters: {weights: {gold: 2}}}
- {type: metrics-data-source, parameters: {interval: 1s}}
schedulingProfiles:
- name: p
  plugins: [{pluginRef: prefix-cache-scorer, weight: 2}, {pluginRef: queue-scorer}, {pluginRef: sessions}]
flowControl: {maxBytes: 1G, priorityBands: [{priority: 1, fairnessPolicyRef: vtc-fairness-policy}]}
"""


def load(body: str, keep: Loaded | None = None, types: Catalog = TYPES) -> Loaded:
    return load_text(HEADER + body, source="c", allow_experimental=True, plugin_types=types, keep=keep)


def changed(old: str, new: str, *, body: str = BASE) -> tuple[Loaded, Loaded]:
    assert old in body
    before = load(body)
    return before, load(body.replace(old, new), before)


def plugin(loaded: Loaded, name: str) -> object:
    return loaded.built[name].step.plugin


def test_the_first_has_nothing_to_keep() -> None:
    loaded = load(BASE)
    assert not loaded.kept
    assert loaded.changes == Changes(True, True, True, True, True, True)


def test_the_same_text_keeps_all() -> None:
    before, after = changed("queue", "queue")
    assert after.kept == set(after.built)
    assert not after.changes
    assert str(after.changes) == "nothing"
    for name in ("profiles", "handler", "plugins", "detector", "parsers", "data", "own", "flow", "policies"):
        assert getattr(after, name) is getattr(before, name), name


def test_how_it_is_written_does_not_matter() -> None:
    after = load("# a comment\n" + BASE.replace("1G", "1000M"), load(BASE))
    assert after.kept == set(after.built)
    assert not after.changes


def test_another_order_is_another_schedule_of_the_same_plugins() -> None:
    lines = BASE.splitlines(keepends=True)
    lines[3], lines[4] = lines[4], lines[3]
    after = load("".join(lines), load(BASE))
    assert after.kept == set(after.built)
    assert str(after.changes) == "scheduling"


def test_a_catalog_that_is_looked_up_anew_changes_nothing() -> None:
    before = load_text(PRESETS["reference"].text + "requestHandler: {parsers: []}\n")
    after = load_text(PRESETS["reference"].text, keep=before)
    assert after.kept == set(after.built)
    assert not after.changes


def test_changed_parameters_make_a_new_plugin_and_of_those_that_need_it() -> None:
    before, after = changed("blockSizeTokens: 64", "blockSizeTokens: 16")
    assert set(after.built) - after.kept == {"approx-prefix-cache-producer", "prefix-cache-scorer"}
    assert plugin(after, "sessions") is plugin(before, "sessions")
    assert plugin(after, "prefix-cache-scorer") is not plugin(before, "prefix-cache-scorer")
    assert after.changes == Changes(True, False, False, False, False, False)


def test_another_name_is_another_plugin() -> None:
    _, after = changed("sessions", "again")
    assert set(after.built) - after.kept == {"again"}


def test_another_type_under_a_name_is_another_plugin() -> None:
    body = "plugins: [{name: x, type: queue-scorer}]\n"
    before, after = changed("queue-scorer", "running-requests-size-scorer", body=body)
    assert "x" not in after.kept
    assert type(plugin(after, "x")) is not type(plugin(before, "x"))


def test_a_second_producer_changes_what_those_who_need_one_have() -> None:
    more = "- {name: more, type: approx-prefix-cache-producer}\n- {type: queue-scorer}\n"
    _, after = changed("- {type: queue-scorer}\n", more)
    assert set(after.built) - after.kept == {"more", "prefix-cache-scorer"}


def test_weights_are_of_the_profile_and_keep_the_plugins() -> None:
    before, after = changed("weight: 2", "weight: 3")
    assert after.kept == set(after.built)
    assert after.changes == Changes(True, False, False, False, False, False)
    assert before.profiles[0].scorers[0][1] == 2
    assert after.profiles[0].scorers[0][1] == 3


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("maxBytes: 1G", "maxBytes: 2G", "flow"),
        ("gold: 2", "gold: 3", "flow"),
        ("[flowControl]", "[]", "flow"),
        ("interval: 1s", "interval: 2s", "data"),
        ("flowControl: {", "requestHandler: {parser: {}}\nflowControl: {", ""),
        ("plugins:\n", "epp: {reasonsHeader: true}\nplugins:\n", "own"),
    ],
)
def test_each_part_tells_for_itself(old: str, new: str, part: str) -> None:
    if not part:
        old, new, part = "flowControl: {", "epp: {limits: {maxStreams: 5}}\nflowControl: {", "own"
    before, after = changed(old, new)
    assert str(after.changes) == part
    for name in ("scheduling", "detector", "flow", "parsers", "data", "own"):
        same = name not in part
        assert getattr(after.changes, name) is not same
        if name != "scheduling":
            assert (getattr(after, name) is getattr(before, name)) is same


def test_another_detector_and_other_parsers() -> None:
    before = load("plugins: []\n")
    detector = load("plugins: [{type: utilization-detector, parameters: {queueDepthThreshold: 9}}]\n", before)
    assert detector.changes.detector
    parsers = "plugins: [{type: openai-parser}]\nrequestHandler: {parsers: [{pluginRef: openai-parser}]}\n"
    after = load(parsers, before)
    assert after.changes == Changes(False, False, False, True, False, False)
    assert load(parsers, after).parsers is after.parsers


def test_state_stays() -> None:
    """A session that was bound before a reload is bound after it."""
    before = load(BASE)
    pool = snapshot(3)
    head = request(headers={"x-session-id": "s"})
    scheduler = before.scheduler(Ledger())
    scheduler.chosen(*scheduler.schedule(head, pool, np.arange(3), now=100.0, seed=1))
    after = load(BASE.replace("blockSizeTokens: 64", "blockSizeTokens: 16"), before)
    assert after.scheduler(Ledger()).dump_state()["sessions"] == {"sessions": 1}


def test_a_refused_text_leaves_the_one_before_alone() -> None:
    before = load(BASE)
    built = dict(before.built)
    with pytest.raises(Exception, match="unknown plugin type"):
        load(BASE.replace("queue-scorer", "quee-scorer"), before)
    assert before.built == built
    assert load(BASE, before).kept == set(before.built)


# Plugins that ask for others when they are made


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    asks: tuple[str, ...] = ()
    size: int = 0


class Asking:
    def __init__(self, parameters: Asker, context: BuildContext) -> None:
        self.got: list[object] = []
        for name in parameters.asks:
            try:
                self.got.append(context.plugin(name))
            except KeyError:
                self.got.append(None)

    def produce(self, cycle: Any) -> None:
        pass


ASKING = Catalog(
    [*(TYPES[name] for name in TYPES), Row(PluginType("asking", Asker, Asking, "asks"), Kind.SCHEDULING)]
)


def asking(*entries: str) -> str:
    return "plugins:\n" + "".join(f"- {{type: asking, {entry}}}\n" for entry in entries)


def test_what_a_constructor_asked_for_counts() -> None:
    one, two, three = "name: a", "name: b, parameters: {asks: [a]}", "name: c, parameters: {asks: [b]}"
    before = load(asking(three, two, one), types=ASKING)
    assert load(asking(three, two, one), before, ASKING).kept >= {"a", "b", "c"}
    after = load(asking(three, two, one + ", parameters: {size: 5}"), before, ASKING)
    assert not after.kept & {"a", "b", "c"}
    assert plugin(after, "c").got[0] is plugin(after, "b")  # type: ignore[attr-defined]
    assert plugin(after, "b").got[0] is plugin(after, "a")  # type: ignore[attr-defined]


def test_what_a_constructor_did_not_find_counts() -> None:
    curious = "name: a, parameters: {asks: [b]}"
    before = load(asking(curious), types=ASKING)
    assert "a" in load(asking(curious), before, ASKING).kept
    after = load(asking(curious, "name: b"), before, ASKING)
    assert "a" not in after.kept
    gone = load(asking(curious), after, ASKING)
    assert "a" not in gone.kept
    assert plugin(gone, "a").got == [None]  # type: ignore[attr-defined]


def test_a_type_that_was_published_anew_is_another() -> None:
    before = load("plugins: [{type: x}]\n", types=_publishes())
    assert "x" not in load("plugins: [{type: x}]\n", before, _publishes()).kept


def _publishes() -> Catalog:
    def make(parameters: NoParameters, context: BuildContext) -> object:
        return Asking(Asker(), context)

    row = Row(PluginType("x", NoParameters, make, "x"), Kind.SCHEDULING, "a-package")
    return Catalog([*(TYPES[name] for name in TYPES), row])


# What has to wait


def test_settings_that_wait_for_the_next_start_are_told_until_they_are_as_they_were() -> None:
    before = load("plugins: []\nepp: {limits: {maxStreams: 5}}\n")
    assert not before.notices
    words = "it takes effect at the next start; until then it is as it was"
    after = load("plugins: []\nepp:\n  limits: {maxStreams: 6}\n  reasonsHeader: true\n", before)
    assert notices(after) == [f"c:5:3: epp.limits: {words}"]
    again = load("plugins: [{type: queue-scorer}]\nepp: {limits: {maxStreams: 6}}\n", after)
    assert notices(again) == [f"c:4:7: epp.limits: {words}"]
    gone = load("plugins: []\n", again)
    assert notices(gone) == [f"c:1:1: epp.limits: {words}"]
    back = load("plugins: []\nepp: {limits: {maxStreams: 5}}\n", gone)
    assert not back.notices


def test_another_discovery_waits() -> None:
    found = "plugins: [{type: file-discovery, parameters: {path: /%s}}]\n"
    found += "dataLayer: {discovery: {pluginRef: file-discovery}}\n"
    before = load(found % "a")
    assert not load(found % "a" + "epp: {reasonsHeader: true}\n", before).notices
    (told,) = load(found % "b", before).notices
    assert str(told) == (
        "c:4:13: dataLayer.discovery: it takes effect at the next start; until then it is as it was"
    )


def test_what_a_process_has_once_is_of_the_default_configuration() -> None:
    default = load("plugins: []\nepp: {limits: {maxStreams: 5}, outliers: {enabled: false}}\n")
    own = read(HEADER + "plugins: []\nepp: {limits: {maxStreams: 6}}\n", "own")
    first = assemble(own, TYPES, process=default.own)
    words = "epp.limits: it counts in the default configuration only, for all pools together"
    assert notices(first) == [f"own:4:7: {words}"]
    outliers = read(HEADER + "epp: {outliers: {enabled: false}, limits: {maxStreams: 5}}\n", "own")
    (told,) = assemble(outliers, TYPES, keep=first).notices
    assert told.path == ("epp", "outliers")


def test_trust_is_taken_at_once_but_for_the_number_of_ids() -> None:
    before = load("plugins: []\n")
    assert not load("plugins: []\nepp: {trust: {objective: clients}}\n", before).notices
    (told,) = load("plugins: []\nepp: {trust: {maxFairnessIds: 5}}\n", before).notices
    assert told.path == ("epp", "trust", "maxFairnessIds")
