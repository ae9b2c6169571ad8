"""Configurations out of files: edits, storms of writes, swapped links, and a folder with a file a pool."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from epp.config.loaded import Loaded
from epp.config.problems import ConfigError
from epp.config.reload import ConfigWatch, Text
from epp.config.sources import MAX_CHARACTERS, MAX_FILES, RETRY_S, PoolConfigs, preset
from tests.unit.config.configs import HEADER, TYPES
from tests.unit.config.test_reload import Told
from tests.unit.datalayer.engines_up import running


def text(threshold: int) -> str:
    return (
        HEADER + "plugins:\n- {type: approx-prefix-cache-producer}\n- {type: prefix-cache-scorer}\n"
        f"- {{type: utilization-detector, parameters: {{queueDepthThreshold: {threshold}}}}}\n"
    )


def threshold(loaded: Loaded) -> int:
    return int(loaded.built["utilization-detector"].instance.parameters.queue_depth_threshold)


class Pool:
    """Follows a configuration as a pool does."""

    def __init__(self, configs: PoolConfigs, namespace: str = "", name: str = "pool") -> None:
        self.watch: ConfigWatch = configs.of(namespace, name)
        self.taken: asyncio.Queue[int] = asyncio.Queue()
        self.watch.on_loaded = lambda loaded: self.taken.put_nowait(threshold(loaded))

    async def becomes(self, wanted: int) -> None:
        """Waits for it; what is taken before is passed over."""
        while await self.taken.get() != wanted:
            pass


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(60):
        yield


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged of configurations from here on."""
    handler, log = Lines(), logging.getLogger("epp.config")
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)
    log.setLevel(level)


def opened(default: Path | Text, folder: Path | None = None, told: Told | None = None) -> PoolConfigs:
    return PoolConfigs(default, folder, plugin_types=TYPES, counts=told)


def mounted(folder: Path, version: int, files: dict[str, str]) -> None:
    """As the kubelet updates a ConfigMap's volume: a new folder, then the link `..data` is swapped."""
    there = folder / f"..{version}"
    there.mkdir(parents=True)
    for name, content in files.items():
        (there / name).write_text(content)
    (folder / "..data_tmp").symlink_to(there.name)
    os.rename(folder / "..data_tmp", folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for link in folder.iterdir():
        if link.is_symlink() and not link.exists():
            link.unlink()


class Refusals(Told):
    """Counts that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.come: asyncio.Queue[str] = asyncio.Queue()

    def config_refused(self, pool: str) -> None:
        super().config_refused(pool)
        self.come.put_nowait(pool)


class Lines(logging.Handler):
    """Log lines that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.come: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.come.put_nowait(record.getMessage())


async def test_what_never_changes_is_not_watched() -> None:
    configs = opened(preset())
    watch = configs.of("", "pool")
    await configs.run()
    assert watch.loaded.source == "default preset"
    assert preset("reference").source == "preset reference"
    with pytest.raises(ConfigError, match="unknown preset 'x'"):
        preset("x")


def test_a_default_that_is_wrong_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        opened(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text(HEADER + "plugin: []\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml:3:1: plugin: unknown field"):
        opened(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        opened(preset(), tmp_path / "none")


async def test_edits_renames_and_mistakes(tmp_path: Path) -> None:
    path, told = tmp_path / "c.yaml", Refusals()
    path.write_text(text(1))
    configs = opened(path, told=told)
    pool = Pool(configs)
    first = pool.watch.loaded
    async with running(configs.run):
        path.write_text(text(2))
        await pool.becomes(2)
        assert pool.watch.loaded.kept >= {"approx-prefix-cache-producer", "prefix-cache-scorer"}
        index = "approx-prefix-cache-producer"
        assert pool.watch.loaded.built[index].step.plugin is first.built[index].step.plugin
        (tmp_path / "new").write_text(text(3))
        os.rename(tmp_path / "new", path)
        await pool.becomes(3)
        in_force = pool.watch.loaded
        path.write_text(text(4) + "nonsense: 1\n")
        while "unknown field 'nonsense'" not in pool.watch.last_error:
            await told.come.get()
        path.unlink()
        while "cannot be read" not in pool.watch.last_error:
            await told.come.get()
        assert pool.watch.loaded is in_force
        path.write_text(text(5))
        await pool.becomes(5)
    assert pool.watch.last_error == ""
    assert pool.watch.generation == told.loaded[-1][1]


async def test_a_storm_makes_few_loads_and_the_last_state_wins(tmp_path: Path) -> None:
    path, told = tmp_path / "c.yaml", Told()
    path.write_text(text(1))
    configs = opened(path, told=told)
    pool = Pool(configs)

    def storm() -> None:
        for i in range(1000):
            path.write_text(text(2 + i))
            os.sched_yield()
        path.write_text(text(5000))

    async with running(configs.run):
        await asyncio.to_thread(storm)
        await pool.becomes(5000)
    assert threshold(pool.watch.loaded) == 5000
    assert pool.watch.last_error == ""
    loads = len(told.loaded) + len(told.refused)
    assert loads < 100, loads


async def test_what_does_not_stand_still_is_waited_for(tmp_path: Path) -> None:
    """Each time it is looked at it has just been changed, up to the third."""
    path, told = tmp_path / "c.yaml", Told()
    path.write_text(text(1))
    coming = [text(2)[:50], text(3)]

    async def pause(seconds: float) -> None:
        if coming:
            path.write_text(coming.pop(0))

    configs = PoolConfigs(path, plugin_types=TYPES, counts=told, pause=pause)
    pool = Pool(configs)
    async with running(configs.run):
        path.write_text(text(2))
        await pool.becomes(3)
    assert len(told.loaded) == 2
    assert not told.refused


async def test_a_change_that_looks_no_newer_is_seen(tmp_path: Path) -> None:
    """Of the same size, within the file system's tick."""
    path = tmp_path / "c.yaml"
    path.write_text(text(1))
    stat = path.stat()
    configs = opened(path)
    pool = Pool(configs)
    path.write_text(text(2))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    async with running(configs.run):
        await pool.becomes(2)


async def test_while_it_never_settles_it_is_still_taken_now_and_then(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text(1))
    configs = opened(path)
    pool = Pool(configs)
    ended = asyncio.Event()

    async def writing() -> None:
        value = 2
        while not ended.is_set():
            (tmp_path / "new").write_text(text(value))
            os.rename(tmp_path / "new", path)
            value += 1
            await asyncio.sleep(0)

    async with running(configs.run), asyncio.TaskGroup() as group:
        group.create_task(writing())
        assert await pool.taken.get() > 1
        ended.set()


async def test_the_volume_of_a_config_map(tmp_path: Path) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    mounted(folder, 1, {"c.yaml": text(1)})
    configs = opened(folder / "c.yaml")
    pool = Pool(configs)
    async with running(configs.run):
        for version in range(2, 6):
            mounted(folder, version, {"c.yaml": text(version)})
            await pool.becomes(version)
    assert pool.watch.generation == 5


async def test_a_file_a_pool(tmp_path: Path) -> None:
    folder, told = tmp_path / "mount", Told()
    folder.mkdir()
    default = tmp_path / "default.yaml"
    default.write_text(text(1))
    mounted(folder, 1, {"a.one.yaml": text(10), "a.dots.in.it.yaml": text(20)})
    configs = opened(default, folder, told)
    one, dots = Pool(configs, "a", "one"), Pool(configs, "a", "dots.in.it")
    other, namesake = Pool(configs, "a", "other"), Pool(configs, "b", "one")
    assert [threshold(p.watch.loaded) for p in (one, dots, other, namesake)] == [10, 20, 1, 1]
    assert one.watch.pool == "a/one"
    assert configs.of("a", "one") is one.watch
    assert other.watch.loaded is not namesake.watch.loaded
    async with running(configs.run):
        # One has another file, one has none any more, one gets its first.
        mounted(folder, 2, {"a.one.yaml": text(11), "a.other.yaml": text(31)})
        await asyncio.gather(one.becomes(11), dots.becomes(1), other.becomes(31))
        default.write_text(text(2))
        await asyncio.gather(dots.becomes(2), namesake.becomes(2))
        configs.forget("b", "one")
        default.write_text(text(3))
        await dots.becomes(3)
    assert namesake.watch.generation == 2
    assert told.gone == ["b/one"]
    assert [threshold(p.watch.loaded) for p in (one, dots, other)] == [11, 3, 31]
    assert one.watch.generation == 2


async def test_a_pool_whose_own_file_is_wrong_runs_by_the_default(tmp_path: Path) -> None:
    default, told = tmp_path / "default.yaml", Told()
    default.write_text(text(1))
    own = tmp_path / "a.one.yaml"
    own.write_text("nonsense")
    configs = opened(default, tmp_path, told)
    pool = Pool(configs, "a", "one")
    assert threshold(pool.watch.loaded) == 1
    assert "a.one.yaml" in pool.watch.last_error
    assert told.refused == ["a/one"]
    async with running(configs.run):
        own.write_text(text(7))
        await pool.becomes(7)
        own.unlink()
        await pool.becomes(1)
    assert pool.watch.last_error == ""


async def test_many_pools_of_one_file_are_told_of_once(tmp_path: Path, lines: Lines) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text(1))
    configs = opened(path)
    pools = [Pool(configs, "a", str(i)) for i in range(50)]

    async def said_before(words: str) -> list[str]:
        said: list[str] = []
        while words not in (line := await lines.come.get()):
            said.append(line)
        return [line for line in said if "unknown field" in line or "in force" in line]

    async with running(configs.run):
        path.write_text(text(1) + "nonsense: 1\n")
        assert len(await said_before("was offered to 50 pools; 0 have another")) == 2
        path.write_text(text(2))
        assert len(await said_before("was offered to 50 pools; 50 have another")) == 1
    assert {threshold(pool.watch.loaded) for pool in pools} == {2}


async def test_what_was_refused_is_tried_again(tmp_path: Path) -> None:
    """A file that it names may have come meanwhile."""
    path, told = tmp_path / "c.yaml", Refusals()
    path.write_text(text(1))
    configs = opened(path, told=told)
    pool = Pool(configs)
    take, there = pool.watch.on_loaded, asyncio.Event()

    def adopt(loaded: Loaded) -> None:
        if not there.is_set():
            raise OSError("no secret")
        take(loaded)

    pool.watch.on_loaded = adopt
    async with running(configs.run):
        path.write_text(text(2))
        await told.come.get()
        assert pool.watch.last_error == "no secret"
        there.set()
        pool.watch.refused_at -= RETRY_S
        await pool.becomes(2)
    assert told.refused == ["pool"]


async def test_a_default_that_went_bad_is_for_new_pools_too(tmp_path: Path) -> None:
    default = tmp_path / "default.yaml"
    default.write_text(text(1))
    told = Refusals()
    configs = opened(default, told=told)
    pool = Pool(configs, "a", "one")
    async with running(configs.run):
        default.write_text(text(2))
        await pool.becomes(2)
        default.write_text("nonsense")
        while "expected a mapping" not in pool.watch.last_error:
            await told.come.get()
        late = Pool(configs, "a", "late")
        assert threshold(late.watch.loaded) == 2
        assert "default.yaml" in late.watch.last_error
        default.write_text(text(3))
        await asyncio.gather(pool.becomes(3), late.becomes(3))


async def test_files_that_mean_no_pool_are_passed_by(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("notes.yaml", "a.b.yaml", "a.b.json", ".a.c.yaml", "a.d.txt", "readme"):
        (tmp_path / name).write_text(text(5))
    configs = opened(preset(), tmp_path)
    assert threshold(Pool(configs, "a", "b").watch.loaded) == 5
    for name in ("c", "d"):
        assert configs.of("a", name).loaded.source == "default preset"
    told = [message.removeprefix(str(tmp_path) + "/") for message in caplog.messages]
    assert told == [
        f"a.b.yaml is passed by: {tmp_path}/a.b.json counts",
        "notes.yaml is passed by: it is for no pool; the form is namespace.pool.yaml",
    ]


async def test_a_folder_that_is_gone_for_a_while_changes_nothing(tmp_path: Path, lines: Lines) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    (folder / "a.one.yaml").write_text(text(5))
    configs = opened(preset(), folder)
    pool = Pool(configs, "a", "one")
    async with running(configs.run):
        os.rename(folder, tmp_path / "away")
        while "configurations stay as they were" not in await lines.come.get():
            pass
        assert threshold(pool.watch.loaded) == 5
        (tmp_path / "away" / "a.one.yaml").write_text(text(6))
        os.rename(tmp_path / "away", folder)
        await pool.becomes(6)
    assert pool.watch.generation == 2


def test_limits(tmp_path: Path) -> None:
    many, long = tmp_path / "many", tmp_path / "long"
    many.mkdir()
    for i in range(MAX_FILES + 1):
        (many / f"a.p{i}.yaml").touch()
    with pytest.raises(ConfigError, match=f"more than {MAX_FILES} configurations"):
        opened(preset(), many)
    long.mkdir()
    for i in range(MAX_CHARACTERS // (1 << 20) + 1):
        with (long / f"a.p{i}.yaml").open("wb") as file:
            file.truncate(1 << 20)
    with pytest.raises(ConfigError, match=f"more than {MAX_CHARACTERS} characters"):
        opened(preset(), long)
