"""Base models: the mapping, the file and the ConfigMap that fill it, and what is said of mistakes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from epp.bodyrouting.basemodels import MAX_NAMES, BaseModels, Family, read_configmap, read_file
from epp.bodyrouting.configmaps import BaseModelMaps
from epp.bodyrouting.files import MAX_BYTES, BaseModelsFile
from epp.config.problems import ConfigError


def known(*families: Family) -> BaseModels:
    models = BaseModels()
    assert models.replace(families) == []
    return models


def test_adapters_and_base_models() -> None:
    models = known(
        Family("qwen", ("foo", "bar"), "a"), Family("qwen", ("more",), "b"), Family("llama", (), "c")
    )
    names = ("foo", "bar", "more", "qwen", "llama", "other", "", "FOO")
    assert [models.of(name) for name in names] == ["qwen"] * 4 + ["llama", "", "", ""]
    assert len(models) == 5


def test_what_contradicts_is_left_out_and_told() -> None:
    models = BaseModels()
    notices = models.replace(
        [Family("qwen", ("foo", "foo", "qwen"), "a"), Family("llama", ("foo", "qwen"), "b")]
    )
    assert [models.of(name) for name in ("foo", "qwen", "llama")] == ["qwen", "qwen", "llama"]
    assert notices == [
        "b: 'foo' is no adapter of 'llama': 'qwen' has it already",
        "b: 'qwen' is no adapter of 'llama': it is a base model",
    ]


def test_there_is_an_end_to_names() -> None:
    models = BaseModels()
    (notice,) = models.replace([Family("qwen", tuple(f"a{i}" for i in range(MAX_NAMES + 5)), "a")])
    assert "more than 100000 names" in notice
    assert len(models) == MAX_NAMES


def test_a_file() -> None:
    text = "qwen: [foo, 'bar']\nllama:\n- more\nalone:\n"
    assert read_file(text, "f") == (
        Family("qwen", ("foo", "bar"), "f"), Family("llama", ("more",), "f"), Family("alone", (), "f"),
    )  # fmt: skip
    assert read_file('{"qwen": ["foo"]}', "f") == (Family("qwen", ("foo",), "f"),)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "f: expected base models"),
        ("- qwen", "f:1:1: expected base models, each with a list of its adapters"),
        ("qwen: foo", "f:1:7: qwen: expected a list of adapters"),
        ("qwen: [405]", "f:1:8: qwen[0]: expected a name; put it in quotes"),
        ("qwen: [{a: b}]", "qwen[0]: expected a name"),
        ("qwen: ['" + "x" * 1025 + "']", "longer than 1024 characters"),
        ("qwen: [foo]\nllama: [foo]", "f:2:8: llama: 'foo' is an adapter of 'qwen' already"),
        ("qwen: [llama]\nllama: []", "f:1:7: qwen: 'llama' is a base model itself"),
        ("qwen: []\nqwen: []", "duplicate key 'qwen'"),
        ("qwen: [", "f:"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_file(text, "f")
    assert complaint in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    models = BaseModels()
    path = tmp_path / "names.yaml"
    for content, complaint in [
        (None, "No such file"),
        (b"\xff", "not UTF-8"),
        (b"#" * (MAX_BYTES + 1), "larger than 1048576 bytes"),
        (b"qwen: 5", "expected a list"),
    ]:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=complaint):
            BaseModelsFile(path, models).load()
    path.write_bytes(b"\xef\xbb\xbfqwen: [foo]")
    BaseModelsFile(path, models).load()
    assert models.of("foo") == "qwen"


def test_a_configmap() -> None:
    data = {"baseModel": " qwen \n", "adapters": "- foo\n- ' bar '\n- ''\n"}
    assert read_configmap(data, "c") == Family("qwen", ("foo", "bar"), "c")
    assert read_configmap({"baseModel": "qwen"}, "c") == Family("qwen", (), "c")
    assert read_configmap({"baseModel": "qwen", "adapters": "  \n"}, "c") == Family("qwen", (), "c")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({}, "c: data.baseModel is missing or empty"),
        ({"baseModel": "  "}, "c: data.baseModel is missing or empty"),
        ({"baseModel": "q", "adapters": ["foo"]}, "c: data.adapters is not a text"),
        ({"baseModel": "q", "adapters": "foo"}, "c data.adapters:1:1: expected a list of adapters"),
        ({"baseModel": "q", "adapters": "- [foo"}, "c data.adapters:"),
        ({"baseModel": "q", "adapters": "- 5"}, "c data.adapters:1:3: [0]: expected a name"),
    ],
)
def test_what_is_wrong_with_a_configmap_is_said(data: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is looked at
        read_configmap(data, "c")
    assert complaint in str(error.value)


def family(base: str, *adapters: str) -> dict[str, object]:
    return {"data": {"baseModel": base, "adapters": "".join(f"- {name}\n" for name in adapters)}}


def test_configmaps_come_change_and_go(caplog: pytest.LogCaptureFixture) -> None:
    models = BaseModels()
    maps = BaseModelMaps(models)
    maps.replaced({"n/a": family("qwen", "foo"), "n/bad": {"data": None}, "n/b": family("llama", "bar")})
    assert [models.of(name) for name in ("foo", "bar")] == ["qwen", "llama"]
    maps.changed("n/a", family("qwen", "new"))
    assert [models.of(name) for name in ("foo", "new")] == ["", "qwen"]
    maps.changed("n/a", {"data": {"adapters": "- foo"}})
    assert models.of("new") == "qwen", "what was there stays in force"
    maps.changed("n/bad", family("third"))
    assert models.of("third") == "third"
    maps.removed("n/b")
    maps.removed("n/never")
    assert [models.of(name) for name in ("bar", "llama", "qwen")] == ["", "", "qwen"]
    maps.replaced({"n/a": {"data": {"baseModel": 5}}})
    assert [models.of(name) for name in ("new", "third")] == ["qwen", ""]
    maps.replaced({})
    assert len(models) == 0
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [
        f"base models: ConfigMap n/{name}: data.baseModel is missing or empty; "
        "write the base model's name there"
        for name in ("bad", "a", "a")
    ]


def test_of_two_that_contradict_each_other_the_first_by_name_counts(caplog: pytest.LogCaptureFixture) -> None:
    models = BaseModels()
    maps = BaseModelMaps(models)
    maps.replaced({"n/b": family("llama", "foo")})
    maps.changed("n/a", family("qwen", "foo"))
    maps.changed("n/c", family("third"))
    assert models.of("foo") == "qwen"
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ["base models: ConfigMap n/b: 'foo' is no adapter of 'llama': 'qwen' has it already"]
