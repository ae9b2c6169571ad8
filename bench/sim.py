"""How much load one process of simulated engines carries: 64 engines, 1,000 streamed requests a second.

    python bench/sim.py [--engines 64] [--rate 1000] [--seconds 8] [--tokens 8] [--scrape-ms 100]

The engines run in this process, the client (raw asyncio, open loop, connections kept) in another. Overhead
is the time that a client waited for a whole answer less the time that the engine itself took for it:
sockets, parsing, timers and a busy core. Prints the rate reached, the CPU share of the engines' process
(1.00 is one core) and overhead percentiles; exits 1 when an answer was missing or wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import sys
import time
from collections import deque

import uvloop

from epp.sim.clock import simulate
from epp.sim.engine import Engine
from epp.sim.exposition import Exposition
from epp.sim.fleet import Fleet
from epp.sim.profile import PROFILES
from epp.sim.sequence import Work
from epp.sim.server import Settings
from epp.sim.step import Step

FIRST_PROMPT_TOKENS = 64


class Recorded(Exposition):
    """Also keeps the engine's own time for each request."""

    took: dict[str, float]

    def step(self, step: Step) -> None:
        super().step(step)
        for seq in step.finished:
            self.took[seq.work.id] = seq.finished_at - seq.arrived_at


class Client(asyncio.Protocol):
    """One kept connection, one request at a time, the answer read to its last chunk."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[int] | None = None
        self.events = 0
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.events += data.count(b'"content":"') + data.count(b'"finish_reason":"')
        self.tail = (self.tail + data)[-5:]
        if self.tail == b"0\r\n\r\n" and self.answer is not None:
            answer, self.answer = self.answer, None
            if not answer.done():  # else the run was over before it came
                answer.set_result(self.events)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError("connection lost"))

    async def ask(self, request: bytes) -> int:
        self.events = 0
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)  # type: ignore[attr-defined]
        return await self.answer


async def play(
    ports: list[int], rate: float, seconds: float, tokens: int, scrape_s: float
) -> dict[str, object]:
    """The client process: Poisson arrivals over all engines in turn."""
    loop = asyncio.get_running_loop()
    rng = random.Random(1)
    idle: list[deque[Client]] = [deque() for _ in ports]
    took: dict[str, float] = {}
    wrong = 0
    scrapes = 0

    async def connect(i: int) -> Client:
        return (await loop.create_connection(Client, "127.0.0.1", ports[i]))[1]

    async def one(i: int, number: int) -> None:
        nonlocal wrong
        began = time.perf_counter()
        client = idle[i].popleft() if idle[i] else await connect(i)
        text = f"{number:08d}" * (FIRST_PROMPT_TOKENS // 2)
        body = (
            f'{{"model":null,"stream":true,"max_tokens":{tokens},"ignore_eos":true,'
            f'"messages":[{{"role":"user","content":"{text}"}}]}}'
        )
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: r{number}\r\n"
        request = f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()
        try:
            events = await client.ask(request)
        except ConnectionError:
            wrong += 1
            return
        took[f"r{number}"] = time.perf_counter() - began
        wrong += events != tokens + 2
        idle[i].append(client)

    async def scrape(i: int) -> None:
        nonlocal scrapes
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[i])
        await asyncio.sleep(scrape_s * i / len(ports))
        while True:
            writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            scrapes += 1
            await asyncio.sleep(scrape_s)

    scrapers = [loop.create_task(scrape(i)) for i in range(len(ports))] if scrape_s else []
    tasks = set()
    start = time.perf_counter()
    due = 0.0
    number = 0
    while due < seconds:
        now = time.perf_counter() - start
        if due > now:
            await asyncio.sleep(due - now)
            continue
        task = loop.create_task(one(number % len(ports), number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
        due += rng.expovariate(rate)
    await asyncio.wait(tasks, timeout=5)
    wall = time.perf_counter() - start
    for scraper in scrapers:
        scraper.cancel()
    return {"sent": number, "wrong": wrong, "wall_s": wall, "scrapes": scrapes, "took": took}


async def run(args: argparse.Namespace) -> int:
    fleet = Fleet(Settings(profile=PROFILES[args.profile]), [0] * args.engines, host="127.0.0.1")
    took: dict[str, float] = {}
    for listener in fleet.listeners:
        server = listener.server
        server.exposition = Recorded(server.engine, server.settings.model)
        server.exposition.took = took
    await fleet.open()
    plan = {
        "ports": [x.server.port for x in fleet.listeners],
        "rate": args.rate,
        "seconds": args.seconds,
        "tokens": args.tokens,
        "scrape_s": args.scrape_ms / 1000,
    }
    before = resource.getrusage(resource.RUSAGE_SELF)
    client = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--client", json.dumps(plan), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await client.communicate()
    after = resource.getrusage(resource.RUSAGE_SELF)
    fleet.close()
    seen = json.loads(out)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    overhead = sorted(1000 * (s - took[name]) for name, s in seen["took"].items())
    answered = len(overhead)

    def at(share: float) -> float:
        return overhead[min(answered - 1, int(share * answered))]

    print(f"engines            {args.engines} ({args.profile}), {args.tokens} tokens an answer")
    print(f"requests           {seen['sent']} sent, {answered} answered, {seen['wrong']} wrong")
    print(f"rate               {answered / args.seconds:.0f} requests/s of {args.rate:.0f} asked for")
    print(f"scrapes            {seen['scrapes'] / args.seconds:.0f} a second")
    print(f"CPU of the engines {cpu / seen['wall_s']:.2f} cores, {1e6 * cpu / max(1, answered):.0f} us each")
    print(f"overhead           p50 {at(0.5):.2f} ms, p90 {at(0.9):.2f} ms, p99 {at(0.99):.2f} ms")
    return 0 if answered == seen["sent"] and not seen["wrong"] else 1


def virtual() -> None:
    """How fast virtual time runs: eight engines, 50 requests a second, fewest requests first."""
    engines = [Engine(PROFILES["llama-3.1-8b-h100"], name=str(i), seed=i) for i in range(8)]
    rng = random.Random(1)
    arrivals = []
    at = 0.0
    for i in range(5000):
        at += rng.expovariate(50.0)
        group, prompt = rng.randrange(40), rng.randint(100, 3000)
        blocks = [group << 32 | k for k in range(prompt * 3 // 4 // 16)]
        arrivals.append((at, Work(str(i), prompt, rng.randint(10, 300), blocks=blocks)))
    began = time.perf_counter()
    served = simulate(
        engines, arrivals, lambda now, work: min(range(8), key=lambda i: (engines[i].unfinished, i))
    )
    took = time.perf_counter() - began
    end = max(s.sequence.finished_at for s in served if s.sequence is not None)
    print(f"virtual time       8 engines, 50 requests/s: {end / took:.0f} x real time")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--scrape-ms", type=float, default=100.0, help="0 for no scrapes")
    parser.add_argument("--profile", default="llama-3.1-8b-h100", choices=list(PROFILES))
    parser.add_argument("--client", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.client:
        print(json.dumps(uvloop.run(play(**json.loads(args.client)))))
        return 0
    status = uvloop.run(run(args))
    virtual()
    return status


if __name__ == "__main__":
    sys.exit(main())
