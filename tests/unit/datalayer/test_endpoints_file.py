"""The endpoints file: what is read, and what every complaint names."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.datalayer.endpoints_file import MAX_FILE_BYTES, EndpointsFileError, parse_endpoints
from epp.domain.endpoint import EndpointSpec


def parse(text: str | bytes) -> tuple[EndpointSpec, ...]:
    return parse_endpoints(text.encode() if isinstance(text, str) else text, "pool.yaml")


def entry(**fields: object) -> str:
    held = {"name": "a", "address": "10.0.0.1", "port": 8000, **fields}
    return yaml.safe_dump({"endpoints": [{k: v for k, v in held.items() if v is not ...}]})


def test_the_reference_format() -> None:
    text = """
# our engines
endpoints:
- {name: vllm-0, namespace: prod, address: 10.0.0.1, port: "8000", labels: {llm-d.ai/role: decode}}
- name: vllm-1
  address: 10.0.0.2
  port: 8001
"""
    first, second = parse(text)
    assert first == EndpointSpec("vllm-0", "10.0.0.1", 8000, "prod", {"llm-d.ai/role": "decode"})
    assert second == EndpointSpec("vllm-1", "10.0.0.2", 8001, "default", {})


@pytest.mark.parametrize(
    ("address", "read"),
    [
        ("::1", "::1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("vllm.prod.svc.cluster.local.", "vllm.prod.svc.cluster.local"),
        ("localhost", "localhost"),
        ("srv:_http._tcp.vllm", "srv:_http._tcp.vllm"),
    ],
)
def test_addresses(address: str, read: str) -> None:
    assert parse(entry(address=address))[0].address == read


def test_json_with_its_own_escapes() -> None:
    labels = r'{"x": "\/\\\/\ud83d\ude00"}'
    text = '{"endpoints": [{"name": "a", "address": "10.0.0.1", "port": 1, "labels": ' + labels + "}]}"
    assert parse(text)[0].labels == {"x": "/\\/\U0001f600"}


def test_a_metrics_port_and_an_srv_name_without_a_port() -> None:
    assert parse(entry(metricsPort="9100"))[0].metrics_port == 9100
    assert parse(entry(address="srv:_http._tcp.vllm", port=...))[0].port == 0


def test_an_empty_list_is_an_empty_pool() -> None:
    assert parse("endpoints: []") == ()


def test_the_same_name_in_two_namespaces_and_the_same_address_twice() -> None:
    held = {"name": "a", "address": "10.0.0.1", "port": 1}
    assert len(parse(json.dumps({"endpoints": [held, {**held, "namespace": "other"}]}))) == 2


names = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
entries = st.lists(
    st.fixed_dictionaries(
        {"name": names, "address": st.ip_addresses().map(str), "port": st.integers(1, 65535)},
        optional={
            "namespace": names,
            "metricsPort": st.integers(1, 65535).map(str),
            "labels": st.dictionaries(names, st.text(max_size=10), max_size=3),
        },
    ),
    max_size=6,
    unique_by=lambda held: (held.get("namespace", "default"), held["name"]),
)


@settings(max_examples=100, deadline=None)
@given(entries, st.sampled_from([None, 2, "\t"]))
def test_json_and_yaml_say_the_same(held: list[dict[str, object]], indent: int | str | None) -> None:
    as_json = parse(json.dumps({"endpoints": held}, indent=indent))
    as_yaml = parse(yaml.safe_dump({"endpoints": held}))
    assert as_json == as_yaml
    assert [(s.name, s.address, s.port, dict(s.labels)) for s in as_json] == [
        (h["name"], h["address"], h["port"], h.get("labels", {})) for h in held
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "pool.yaml: empty"),
        ("# nothing\n", "pool.yaml: empty"),
        ("[]", "pool.yaml:1: expected a mapping with `endpoints:`"),
        ("{}", "pool.yaml:1: field endpoints: missing"),
        ("endpoint: []", "pool.yaml:1: field endpoint: unknown field, did you mean endpoints?"),
        ("endpoints: 5", "pool.yaml:1: field endpoints: expected a list"),
        ("endpoints:\n- 7", "pool.yaml:2: entry 1: expected a mapping"),
        ("endpoints: []\nendpoints: []", "pool.yaml:2: field endpoints: given twice"),
        ("endpoints: [\n", "pool.yaml:2: not YAML"),
        (b"endpoints: []\n# \xff", "pool.yaml:2: not UTF-8"),
        ("endpoints: &a\n- *a\n- *b", "pool.yaml:3: not YAML: found undefined alias"),
        ("[" * 100_000, "pool.yaml:1: nested deeper than 32 levels"),
        (b" " * (MAX_FILE_BYTES + 1), "larger than 1048576 bytes"),
        (entry(name=...), "entry 1: field name: missing"),
        (entry(name=7), "entry 1, field name: expected a string"),
        (entry(name=""), "entry 1, field name: empty"),
        (entry(name="a b"), "entry 1, field name: longer than"),
        (entry(address=...), "entry 1 (a), field address: missing"),
        (entry(address="10.0.0.256"), "entry 1 (a), field address: '10.0.0.256' is neither an IPv4"),
        (entry(address="http://x"), "entry 1 (a), field address: 'http://x' is neither"),
        (entry(address="x:80"), "entry 1 (a), field address: 'x:80' is neither"),
        (entry(port=...), "entry 1 (a), field port: missing"),
        (entry(port=0), "entry 1 (a), field port: '0' is not a port"),
        (entry(port="65536"), "entry 1 (a), field port: '65536' is not a port"),
        (entry(port="http"), "entry 1 (a), field port: 'http' is not a port"),
        (entry(port=[1]), "entry 1 (a), field port: this is not a port"),
        (entry(metricsPort=-1), "entry 1 (a), field metricsPort: '-1' is not a port"),
        (entry(ports=1), "entry 1, field ports: unknown field, did you mean port?"),
        (entry(labels=["a"]), "entry 1 (a), field labels: expected a mapping"),
        (entry(labels={"a": True}), "entry 1 (a), field labels.a: the value 'true' is no string"),
        (entry(labels={str(i): "x" for i in range(257)}), "more than 256 labels"),
    ],
)
def test_complaints(text: str | bytes, complaint: str) -> None:
    with pytest.raises(EndpointsFileError) as caught:
        parse(text)
    said = str(caught.value)
    assert said.startswith("pool.yaml")
    assert complaint.replace("entry 1: field", "entry 1, field") in said


def test_a_complaint_has_the_line_of_the_word_it_is_about() -> None:
    text = "endpoints:\n- {name: a, address: 10.0.0.1, port: 1}\n- name: b\n  address: 10.0.0.2\n  port: x\n"
    with pytest.raises(EndpointsFileError) as caught:
        parse(text)
    error = caught.value
    assert (error.line, error.entry, error.field) == (5, "entry 2 (b)", "port")


def test_a_name_given_twice_names_the_first_line() -> None:
    text = "endpoints:\n- {name: a, address: 10.0.0.1, port: 1}\n- {name: a, address: 10.0.0.2, port: 1}\n"
    with pytest.raises(EndpointsFileError, match=r"pool\.yaml:3: .*default/a stands already at line 2"):
        parse(text)


def test_a_name_given_twice_on_one_line() -> None:
    held = {"name": "a", "address": "10.0.0.1", "port": 1}
    with pytest.raises(EndpointsFileError, match="default/a stands already"):
        parse(json.dumps({"endpoints": [held, held]}))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="endpoints: []{}-,\n\t\"'&*!|>a0.#%", max_size=80))
def test_rubbish_is_refused_in_words(text: str) -> None:
    with suppress(EndpointsFileError):
        assert all(spec.name and spec.address for spec in parse(text))
