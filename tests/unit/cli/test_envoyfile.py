"""Ports filled into Envoy configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from epp.cli.envoyfile import render

DEPLOY = Path(__file__).parents[3] / "deploy" / "envoy"
FILES = sorted(DEPLOY.glob("*.yaml"))
COMMON = ("admin", "listener", "listener_address", "buffer_limit", "epp", "epp_health", "answer_body")


def test_replaces_the_last_scalar_of_marked_lines(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("a: {b: {address: 127.0.0.1, port_value: 80}}  # @one\nc: 5  # other\nd: x  # @two\n")
    assert render(path, {"one": 99}) == (
        "a: {b: {address: 127.0.0.1, port_value: 99}}  # @one\nc: 5  # other\nd: x  # @two\n"
    )


def test_a_sequence_repeats_its_line(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("hosts:\n- {port: 80}  # @host\n")
    assert yaml.safe_load(render(path, {"host": [1, 2, 3]})) == {"hosts": [{"port": n} for n in (1, 2, 3)]}


def test_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("a: 1  # @one\n")
    with pytest.raises(ValueError, match="# @twoo"):
        render(path, {"one": 2, "twoo": 3})
    with pytest.raises(ValueError, match="one needs at least one value"):
        render(path, {"one": []})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_as_it_is_and_filled_in_differs_only_there(path: Path) -> None:
    plain = render(path, {})
    assert plain == path.read_text()
    assert {name for name in COMMON if f"# @{name}" in plain} == set(COMMON)
    filled = yaml.safe_load(render(path, {"listener": 12345}))
    listener = filled["static_resources"]["listeners"][0]
    assert listener["address"]["socket_address"]["port_value"] == 12345
    listener["address"]["socket_address"]["port_value"] = 8081
    assert filled == yaml.safe_load(plain)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_files_agree_on_what_must_be_the_same(path: Path) -> None:
    """They are whole files, to be taken one at a time; what protects the pool stands in each."""
    config, model = yaml.safe_load(path.read_text()), yaml.safe_load((DEPLOY / "standalone.yaml").read_text())

    def connections(of: dict[str, object]) -> dict[str, object]:
        found = of["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]  # type: ignore[index]
        assert isinstance(found, dict)
        return found

    ours, theirs = connections(config), connections(model)
    for key in (
        "early_header_mutation_extensions",
        "local_reply_config",
        "stream_idle_timeout",
        "request_timeout",
    ):
        assert ours[key] == theirs[key]
    assert config["overload_manager"] == model["overload_manager"]
    picker = ours["http_filters"][0]["typed_config"]  # type: ignore[index]
    assert picker["message_timeout"] == "600s"
