"""Watching the endpoints file: edits in place, renames, swapped links, and files that are wrong."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from epp.datalayer.endpoints_file import EndpointsFileError
from epp.datalayer.files import FileDiscovery
from epp.domain.endpoint import EndpointSpec
from tests.unit.datalayer.engines_up import running


def text(*names: str) -> str:
    return "endpoints:" + "".join(f"\n- {{name: {n}, address: 10.0.0.1, port: 1}}" for n in names)


class Pool:
    """What discovery has told."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[list[str]] = asyncio.Queue()
        self.refused: asyncio.Queue[EndpointsFileError] = asyncio.Queue()

    def found(self, specs: Sequence[EndpointSpec]) -> None:
        self.told.put_nowait([spec.name for spec in specs])


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


def discovery(path: Path, pool: Pool, watch: bool = True) -> FileDiscovery:
    return FileDiscovery(path, pool.found, watch=watch, refused=pool.refused.put_nowait)


async def test_without_a_watch_it_is_read_once(tmp_path: Path) -> None:
    path, pool = tmp_path / "pool.yaml", Pool()
    path.write_text(text("a"))
    await discovery(path, pool, watch=False).run()
    assert pool.told.get_nowait() == ["a"]
    assert pool.told.empty()


@pytest.mark.parametrize("content", [None, "endpoints: 5"])
async def test_a_first_file_that_is_wrong_ends_the_start(tmp_path: Path, content: str | None) -> None:
    path, pool = tmp_path / "pool.yaml", Pool()
    if content is not None:
        path.write_text(content)
    with pytest.raises(EndpointsFileError, match=r"pool\.yaml"):
        await discovery(path, pool).run()
    assert pool.told.empty()
    assert pool.refused.empty()


async def test_a_load_before_is_not_repeated(tmp_path: Path) -> None:
    path, pool = tmp_path / "pool.yaml", Pool()
    path.write_text(text("a"))
    made = discovery(path, pool, watch=False)
    made.load()
    await made.run()
    assert pool.told.qsize() == 1


async def test_edits_and_renames_are_noticed(tmp_path: Path) -> None:
    path, pool = tmp_path / "pool.yaml", Pool()
    path.write_text(text("a"))
    async with running(discovery(path, pool).run):
        assert await pool.told.get() == ["a"]
        path.write_text(text("a", "b"))
        while await pool.told.get() != ["a", "b"]:  # a truncated file may have been seen between
            pass
        beside = tmp_path / "pool.yaml.new"
        beside.write_text(text("c"))
        beside.replace(path)
        assert await pool.told.get() == ["c"]


async def test_a_swapped_config_map_is_noticed(tmp_path: Path) -> None:
    for revision, name in (("..1", "a"), ("..2", "b"), ("..3", "c")):
        (tmp_path / revision).mkdir()
        (tmp_path / revision / "pool.yaml").write_text(text(name))
    (tmp_path / "..data").symlink_to("..1")
    path, pool = tmp_path / "pool.yaml", Pool()
    path.symlink_to("..data/pool.yaml")
    async with running(discovery(path, pool).run):
        assert await pool.told.get() == ["a"]
        for revision, name in (("..2", "b"), ("..3", "c")):
            (tmp_path / "..data_tmp").symlink_to(revision)
            os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
            assert await pool.told.get() == [name]


async def test_a_wrong_file_keeps_the_old_one_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, pool = tmp_path / "pool.yaml", Pool()
    path.write_text(text("a"))
    async with running(discovery(path, pool).run):
        assert await pool.told.get() == ["a"]
        beside = tmp_path / "beside"
        beside.write_text("endpoints:\n- {name: a, adress: 10.0.0.1}")
        beside.replace(path)
        error = await pool.refused.get()
        assert (error.line, error.field) == (2, "adress")
        assert pool.told.empty()
        assert "the old one stays in force" in caplog.text
        path.unlink()
        assert "No such file" in str(await pool.refused.get())
        beside.write_text(text("b"))
        beside.replace(path)
        assert await pool.told.get() == ["b"]
    assert pool.refused.empty()


async def test_a_machine_without_watches_left_is_looked_at_anyway(tmp_path: Path) -> None:
    path, pool = tmp_path / "pool.yaml", Pool()
    path.write_text(text("a"))
    changed = tmp_path / "new.yaml"
    changed.write_text(text("b"))
    watched = discovery(path, pool)
    watched.load()
    await asyncio.to_thread(path.read_bytes)  # its thread and module are there when descriptors run out
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + 8, hard))
    held: list[int] = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        os.close(held.pop())  # for reading the file; a watch takes more
    watching = asyncio.ensure_future(watched.run())
    try:
        assert await pool.told.get() == ["a"]
        changed.replace(path)
        assert await pool.told.get() == ["b"]
        assert not watching.done()
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
