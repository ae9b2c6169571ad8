"""Objectives from a file and from a folder, watched: what changes, what stays, what ends the start."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from epp.config.objectives import read_objectives
from epp.datalayer.objectives import MAX_BYTES, MAX_FILES, ObjectiveFiles, Objectives, ObjectivesError
from epp.datalayer.rewrites import Rewrites
from tests.unit.datalayer.engines_up import running


def text(**priorities: int) -> str:
    return "---\n".join(
        "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjective\n"
        f"metadata: {{name: {name}}}\nspec: {{priority: {priority}, poolRef: {{name: p}}}}\n"
        for name, priority in priorities.items()
    )


class Seen:
    """Objectives, and what was told of them."""

    def __init__(self, path: Path) -> None:
        self.objectives = Objectives()
        self.told: asyncio.Queue[dict[str, int]] = asyncio.Queue()
        self.refused: asyncio.Queue[None] = asyncio.Queue()
        self.files = ObjectiveFiles(
            path, self.objectives, read_objectives, refused=lambda: self.refused.put_nowait(None)
        )
        self.objectives.observe(lambda _: self.told.put_nowait(self.now()))
        self.told.get_nowait()

    def now(self) -> dict[str, int]:
        return {name: one.priority for name, one in self.objectives.by_name.items()}

    async def until(self, **priorities: int) -> None:
        while await self.told.get() != priorities:  # a file that is half written may have been seen between
            pass


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


def test_unknown_names_have_the_default() -> None:
    objectives = Objectives(default_priority=-1)
    assert (objectives.priority("x"), objectives.priority("")) == (-1, -1)
    told: list[frozenset[int]] = []
    objectives.observe(told.append)
    objectives.replace(read_objectives([("f", text(gold=5, free=-3).encode())]).by_name)
    assert (objectives.priority("gold"), objectives.priority("free"), objectives.priority("x")) == (5, -3, -1)
    assert told == [frozenset({-1}), frozenset({5, -3, -1})]


def test_a_change_swaps_the_whole_mapping(tmp_path: Path) -> None:
    path = tmp_path / "o.yaml"
    path.write_text(text(gold=1))
    seen = Seen(path)
    seen.files.load()
    before = seen.objectives.by_name
    path.write_text(text(gold=2))
    seen.files.load()
    assert before["gold"].priority == 1
    assert seen.now() == {"gold": 2}


@pytest.mark.parametrize("content", [None, "kind: InferenceObjective"])
async def test_what_is_wrong_at_first_ends_the_start(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "o.yaml"
    if content is not None:
        path.write_text(content)
    seen = Seen(path)
    with pytest.raises(ObjectivesError, match=r"o\.yaml"):
        await seen.files.run()
    assert seen.refused.empty()


async def test_a_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "o.yaml"
    path.write_text(text(gold=1))
    seen = Seen(path)
    async with running(seen.files.run):
        await seen.until(gold=1)
        beside = tmp_path / "new"
        beside.write_text(text(gold=1, free=-1))
        beside.replace(path)
        await seen.until(gold=1, free=-1)
        path.unlink()
        await seen.refused.get()
        assert seen.now() == {"gold": 1, "free": -1}
        path.write_text(text(other=3))
        await seen.until(other=3)


async def test_a_folder_is_followed_and_a_file_that_goes_takes_its_objectives_along(tmp_path: Path) -> None:
    folder = tmp_path / "objectives"
    folder.mkdir()
    (folder / "a.yaml").write_text(text(gold=1))
    (folder / "notes.txt").write_text("kind: [")
    (folder / ".hidden.yaml").write_text("kind: [")
    seen = Seen(folder)
    async with running(seen.files.run):
        await seen.until(gold=1)
        (folder / "b.yml").write_text(text(free=-1))
        await seen.until(gold=1, free=-1)
        (folder / "a.yaml").unlink()
        await seen.until(free=-1)


async def test_one_wrong_file_leaves_all_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text(gold=1))
    seen = Seen(tmp_path)
    async with running(seen.files.run):
        await seen.until(gold=1)
        (tmp_path / "b.yaml").write_text(text(gold=7))  # twice the same name
        await seen.refused.get()
        assert seen.now() == {"gold": 1}
        (tmp_path / "b.yaml").write_text(text(free=7))
        await seen.until(gold=1, free=7)


async def test_a_mounted_config_map_is_followed(tmp_path: Path) -> None:
    """Its files lead through a link that is swapped for another folder."""
    mount = tmp_path / "mount"
    for name, priority in (("..1", 1), ("..2", 2)):
        (mount / name).mkdir(parents=True)
        (mount / name / "o.yaml").write_text(text(gold=priority))
    (mount / "..data").symlink_to("..1")
    (mount / "o.yaml").symlink_to("..data/o.yaml")
    seen = Seen(mount)
    async with running(seen.files.run):
        await seen.until(gold=1)
        (mount / "..new").symlink_to("..2")
        os.replace(mount / "..new", mount / "..data")
        await seen.until(gold=2)


def test_bounds(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("#" * MAX_BYTES + "\n")
    with pytest.raises(ObjectivesError, match="more than"):
        Seen(tmp_path).files.load()
    (tmp_path / "a.yaml").unlink()
    for i in range(MAX_FILES + 1):
        (tmp_path / f"{i}.json").touch()
    with pytest.raises(ObjectivesError, match="more than 1000 files"):
        Seen(tmp_path).files.load()


def rewrite(target: str) -> str:
    return (
        "---\napiVersion: llm-d.ai/v1alpha2\nkind: InferenceModelRewrite\nmetadata: {name: r}\n"
        f"spec: {{poolRef: {{name: p}}, rules: [{{targets: [{{modelRewrite: '{target}'}}]}}]}}\n"
    )


async def test_rewrites_in_the_same_files_are_followed(tmp_path: Path) -> None:
    path, rewrites = tmp_path / "objectives.yaml", Rewrites()
    told: asyncio.Queue[frozenset[str]] = asyncio.Queue()
    path.write_text(text(gold=1) + rewrite("one"))
    refused: asyncio.Queue[None] = asyncio.Queue()
    files = ObjectiveFiles(
        path, Objectives(), read_objectives, refused=lambda: refused.put_nowait(None), rewrites=rewrites
    )
    files.load()
    rewrites.observe(told.put_nowait)
    assert await told.get() == {"one"}

    def write(content: str) -> None:
        (tmp_path / "next").write_text(content)
        os.replace(tmp_path / "next", path)

    async with running(files.run):
        write(text(gold=1) + rewrite("two"))
        while await told.get() != {"two"}:
            pass
        write(text(gold=1) + rewrite(""))
        await refused.get()
        assert rewrites.names == {"two"}, "what is wrong changes nothing"
        write(text(gold=1))
        while await told.get():
            pass
    assert not rewrites
