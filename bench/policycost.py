"""What one request costs the policy alone: a door's calls on the director, without any transport.

    python bench/policycost.py [--endpoints 8] [--open 0] [--scrapes] [--profile] [--repeat 2000]

The real rooms with the default preset, and for each request what a compiled transport asks of Python: `open`,
`decide`, `answered`, `first_token`, `end`. `whole` is these five in a tight loop, hence with warm caches: a
lower bound. The steps are timed apart in further rounds, by a clock around each room (0.1 us, taken out), so
`rest` is the director's own work between them; `schedule` holds what its plugins take, also shown one by one.
`collector` is what of the whole Python's garbage collector took: with `--open` requests that have not ended
yet it has more to do. `held` is how many objects that it looks at an open request is made of.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import pstats
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from request import REQUEST_HEADERS, chat_body

from epp.app import App, Options
from epp.config.loader import load_preset
from epp.config.sources import PoolConfigs, preset
from epp.datalayer.load import Load
from epp.director import Director
from epp.domain.request import RequestHead, Usage
from epp.domain.views import AnswerHead, Call, Ending, Report, Route

VARIANTS = 64
"""Different prompts, each of which comes again and again."""
WARM_UP = 6000
"""Requests before the first round: the decision log is full then, and drops one for each that it takes."""
ROUNDS = 7
SCRAPE_EVERY = 20
"""Requests to each new snapshot, as when 8 endpoints are scraped ten times a second at 1,600 requests/s."""
ROOMS: Mapping[str, Mapping[str, str]] = {
    "parsers": {"parse": "parse"},
    "gate": {"admit": "admit"},
    "store": {"by_authority": "answered"},
    "scheduler": {
        "schedule": "schedule", "expected_output": "ledger", "chosen": "learn", "request_headers": "headers",
        "answer_headers": "answered",
    },
    "ledger": {"start": "ledger"},
    "metrics": {"scheduled": "meter", "prefix_lookup": "meter", "request": "meter", "ended": "meter"},
    "decisions": {"record": "record"},
    "outputs": {"expected": "ledger", "saw": "ledger"},
}  # fmt: skip
"""The director's rooms: which of their methods count to which step."""


class Watched:
    """A room with a clock around some of its methods; the others are its own."""

    def __init__(self, room: object, steps: Mapping[str, str], spent: dict[str, float]) -> None:
        self._room = room
        for method, step in steps.items():
            setattr(self, method, _timed(getattr(room, method), step, spent))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._room, name)


class PluginTimes:
    """A scheduler's sink."""

    def __init__(self, spent: dict[str, float]) -> None:
        self._spent = spent

    def timed(self, extension_point: str, type_name: str, name: str, seconds: float) -> None:
        self._spent[f"  {name} ({extension_point})"] += seconds

    def fault(self, extension_point: str, type_name: str, name: str, what: str) -> None:
        raise AssertionError(f"{name}: {what}")


def _timed(method: Callable[..., Any], step: str, spent: dict[str, float]) -> Callable[..., Any]:
    clock = time.perf_counter

    def timed(*positional: Any, **named: Any) -> Any:
        began = clock()
        try:
            return method(*positional, **named)
        finally:
            spent[step] += clock() - began

    return timed


class Bench:
    """Rooms over a pool of so many endpoints, and requests to ask about."""

    def __init__(self, app: App, size_kb: float, *, open_: int = 0, scrapes: bool = False) -> None:
        self.app = app
        self.scrapes = scrapes
        self.bodies = [chat_body(size_kb, variant) for variant in range(VARIANTS)]
        self.most_open = open_
        self.open: deque[tuple[Call, object]] = deque()

    def play(self, director: Director, times: int) -> None:
        """Ask about so many requests, as the door does."""
        clock, bodies, endpoints = time.monotonic, self.bodies, self.app.pool.known.store.endpoints
        waiting = self.open
        for number in range(times):
            if self.scrapes and number % SCRAPE_EVERY == 0:
                self._scrape(endpoints[number // SCRAPE_EVERY % len(endpoints)], clock())
            call = director.open(head_of(clock()))
            waiting.append((call, call.decide(bodies[number % VARIANTS])))
            if len(waiting) > self.most_open:
                self.answer(*waiting.popleft(), clock())

    def finish(self) -> None:
        while self.open:
            self.answer(*self.open.popleft(), time.monotonic())

    def answer(self, call: Call, verdict: object, now: float) -> None:
        assert isinstance(verdict, Route)
        call.answered(AnswerHead(status=200, at=now, served=verdict.destination))
        call.first_token(now)
        usage = Usage(prompt_tokens=8, completion_tokens=4, total_tokens=12)
        call.end(Ending.NATURAL, Report(True, False, now, now, 200, usage))

    def _scrape(self, endpoint: Any, now: float) -> None:
        self.app.pool.known.store.report(endpoint, Load(waiting=0.0, running=0.0, kv_used=0.1), now)

    def stages(self, director: Director, times: int) -> dict[str, float]:
        """Seconds in each of the door's calls."""
        spent: dict[str, float] = defaultdict(float)
        clock = time.perf_counter
        for number in range(times):
            head = head_of(time.monotonic())
            began = clock()
            call = director.open(head)
            opened = clock()
            verdict = call.decide(self.bodies[number % VARIANTS])
            decided = clock()
            assert isinstance(verdict, Route)
            now = time.monotonic()
            answer = AnswerHead(status=200, at=now, served=verdict.destination)
            usage = Usage(prompt_tokens=8, completion_tokens=4, total_tokens=12)
            report = Report(True, False, now, now, 200, usage)
            asked = clock()
            call.answered(answer)
            answered = clock()
            call.first_token(now)
            first = clock()
            call.end(Ending.NATURAL, report)
            ended = clock()
            spent["open"] += opened - began
            spent["decide"] += decided - opened
            spent["answered"] += answered - asked
            spent["first_token"] += first - answered
            spent["end"] += ended - first
        return spent


def head_of(now: float) -> RequestHead:
    """The transport hands a mapping of its own for every request; so does this."""
    return RequestHead(
        headers=dict(REQUEST_HEADERS),
        method="POST",
        path="/v1/chat/completions",
        request_id=REQUEST_HEADERS["x-request-id"],
        received_at=now,
    )


def watched(app: App, loaded: Any, spent: dict[str, float]) -> Director:
    """A director of the same rooms with clocks around them, and a scheduler that times every plugin."""
    d = app.pool.generation.director
    known = app.pool.known
    scheduler = loaded.scheduler(
        known.ledger, clock=time.perf_counter, sink=PluginTimes(spent), timed_every=1
    )
    known.store.observe(scheduler)
    rooms: dict[str, Any] = {
        "parsers": d.parsers, "gate": d.gate, "store": d.store, "scheduler": scheduler, "ledger": d.ledger,
        "metrics": d.metrics, "decisions": d.decisions,
    }  # fmt: skip
    timed = {name: Watched(room, ROOMS[name], spent) for name, room in rooms.items()}
    director = Director(
        **timed,  # type: ignore[arg-type]
        outliers=d.outliers, models=d.models, tracer=d.tracer, settings=d.settings, clock=d.clock,
        seed=d.seed,
    )  # fmt: skip
    director.outputs = Watched(director.outputs, ROOMS["outputs"], spent)  # type: ignore[assignment]
    director.candidates.of = _timed(director.candidates.of, "candidates", spent)  # type: ignore[method-assign]
    return director


@contextmanager
def collector_seconds() -> Iterator[list[float]]:
    """Seconds that garbage collections took, and how many there were."""
    taken = [0.0, 0.0]
    began = 0.0

    def note(phase: str, info: object) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            taken[0] += time.perf_counter() - began
            taken[1] += 1

    gc.callbacks.append(note)
    try:
        yield taken
    finally:
        gc.callbacks.remove(note)


def held_objects(app: App) -> float:
    """Objects that the garbage collector looks at in one open request, decided and not answered."""
    bench = Bench(app, 0.1, open_=1000)
    gc.collect()
    before = len(gc.get_objects())
    bench.play(app.pool.generation.director, 1000)
    held = len(gc.get_objects()) - before
    bench.finish()
    return held / 1000


def best(work: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    """The least of several rounds, step by step."""
    rounds = [work() for _ in range(ROUNDS)]
    return {step: min(round_[step] for round_ in rounds) for step in rounds[0]}


def measure(bench: Bench, loaded: Any, size_kb: float, repeat: int, profile: bool) -> None:
    app = bench.app
    times = repeat if size_kb < 100 else max(repeat // 10, VARIANTS)

    def whole() -> dict[str, float]:
        began = time.process_time()
        bench.play(app.pool.generation.director, times)
        return {"whole": time.process_time() - began}

    bench.play(app.pool.generation.director, WARM_UP if size_kb < 10 else times)
    with collector_seconds() as taken:
        total = best(whole)["whole"]
    click.echo(f"{size_kb:g} KB: whole {total / times * 1e6:.1f} us", nl=False)
    click.echo(f", of it the collector {taken[0] / times / ROUNDS * 1e6:.2f} us", nl=False)
    click.echo(f", held {held_objects(app):.1f} objects")
    calls = best(lambda: bench.stages(app.pool.generation.director, times))
    _table(calls, times, 0.05)
    spent: dict[str, float] = defaultdict(float)
    director = watched(app, loaded, spent)

    def steps() -> dict[str, float]:
        spent.clear()
        bench.play(director, times)
        return dict(spent)

    bench.play(director, times)
    _table(best(steps), times, 0.1)
    bench.finish()
    if profile:
        profiler = cProfile.Profile()
        profiler.enable()
        bench.play(app.pool.generation.director, times)
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)


def _table(seconds: Mapping[str, float], times: int, clock_us: float) -> None:
    for step, taken in seconds.items():
        click.echo(f"    {step:48} {max(0.0, taken / times * 1e6 - clock_us):7.2f}")


async def run(endpoints: int, open_: int, repeat: int, scrapes: bool, profile: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="epp-bench-") as directory:
        file = Path(directory) / "endpoints.yaml"
        named = [f'{{name: engine-{i}, address: 127.0.0.1, port: "{8000 + i}"}}' for i in range(endpoints)]
        file.write_text(f"endpoints: [{', '.join(named)}]\n")
        options = Options(endpoints_file=file, secure_serving=False, tracing=False)
        app = App(options, PoolConfigs(preset()))
        app.pool.load()
        for size_kb in (0.1, 32, 400):
            bench = Bench(app, size_kb, open_=open_, scrapes=scrapes)
            measure(bench, load_preset(), size_kb, repeat, profile)


@click.command(help=__doc__)
@click.option("--endpoints", default=8, show_default=True, type=click.IntRange(1))
@click.option("--open", "open_", default=0, show_default=True, help="Requests that are open all the time.")
@click.option("--scrapes", is_flag=True, help=f"A new snapshot every {SCRAPE_EVERY} requests.")
@click.option("--profile", is_flag=True, help="Print where the time goes, by function.")
@click.option("--repeat", default=2000, show_default=True, type=click.IntRange(100), help="Requests a round.")
def main(endpoints: int, open_: int, repeat: int, scrapes: bool, profile: bool) -> None:
    asyncio.run(run(endpoints, open_, repeat, scrapes, profile))


if __name__ == "__main__":
    main()
