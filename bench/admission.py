"""What flow control costs, without any I/O: `python -m bench.admission [--queued 50000] [--flows 200]`.

Fills the queues of one band with requests of many flows, then drains them in batches of 32, as snapshots and
finished requests would let it. Each policy in microseconds an
operation, best and median of the rounds:

    enqueue   a request comes to wait, among as many as wait by then
    dispatch  it leaves, and is told finished
    both      what a request pays; wanted: at most 20
    cancel    a request leaves from anywhere in the queue
    bytes     memory of one waiting request, waiter (a bare object) included; wanted: under 1,024
Another column has a queue that stays full: one in, one out, so that policies that rank flows anew after each
change show what that costs.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable
from random import Random

from epp.admission.attained import AttainedService, AttainedServiceParameters
from epp.admission.band import BandSettings
from epp.admission.control import FlowControl
from epp.admission.fairness import FairnessPolicy, GlobalStrict, RoundRobin
from epp.admission.limits import Limits
from epp.admission.order import EarliestDeadline, FirstCome, OrderingPolicy
from epp.admission.registry import RegistrySettings
from epp.admission.room import Slots
from epp.admission.settings import FlowControlSettings
from epp.admission.ticket import Ticket
from epp.admission.vtc import TokenCounterParameters, VirtualTokenCounter
from epp.scheduling.contract import NoParameters

WANTED_US = 20.0
WANTED_BYTES = 1024.0
BATCH = 32

POLICIES: dict[str, tuple[Callable[[], FairnessPolicy], Callable[[], OrderingPolicy]]] = {
    "global-strict, fcfs": (lambda: GlobalStrict(NoParameters()), lambda: FirstCome(NoParameters())),
    "global-strict, edf": (lambda: GlobalStrict(NoParameters()), lambda: EarliestDeadline(NoParameters())),
    "round-robin, fcfs": (lambda: RoundRobin(NoParameters()), lambda: FirstCome(NoParameters())),
    "program-aware, fcfs": (
        lambda: AttainedService(AttainedServiceParameters()),
        lambda: FirstCome(NoParameters()),
    ),
    "vtc, fcfs": (lambda: VirtualTokenCounter(TokenCounterParameters()), lambda: FirstCome(NoParameters())),
    "vtc, edf": (
        lambda: VirtualTokenCounter(TokenCounterParameters()),
        lambda: EarliestDeadline(NoParameters()),
    ),
}


class Scene:
    """Requests with lengths and TTLs drawn once, so that every policy has the same."""

    def __init__(self, queued: int, flows: int) -> None:
        rng = Random(1)
        self.flows = [f"tenant-{i}" for i in range(flows)]
        self.requests = [
            (
                rng.choice(self.flows),
                rng.randint(200, 20_000),
                rng.randint(10, 4_000),
                rng.uniform(10.0, 60.0),
            )
            for _ in range(queued)
        ]
        self.outputs = [rng.randint(1, 500) for _ in range(queued)]
        self.leavers = rng.sample(range(queued), queued // 3)

    def control(self, policy: str) -> FlowControl[object]:
        fairness, order = POLICIES[policy]
        band = BandSettings(Limits(), fairness(), order())
        return FlowControl(FlowControlSettings(registry=RegistrySettings(default=band)), 0.0)

    def enqueue(self, control: FlowControl[object], i: int) -> Ticket[object]:
        flow, size, tokens, ttl_s = self.requests[i]
        ticket = control.enqueue(
            object(), i * 1e-4, fairness_id=flow, size_bytes=size, input_tokens=tokens, ttl_s=ttl_s
        )
        assert isinstance(ticket, Ticket)
        return ticket

    def fill_and_drain(self, policy: str) -> tuple[float, float]:
        """Microseconds of an enqueue and of a dispatch with its end."""
        control, n = self.control(policy), len(self.requests)
        gc.collect()
        start = time.process_time()
        for i in range(n):
            self.enqueue(control, i)
        filled = time.process_time()
        done, now = 0, n * 1e-4
        while len(control):
            for ticket in control.dispatch(now, Slots(BATCH)):
                control.placed(ticket)
                control.finished(ticket, now, output_tokens=self.outputs[done])
                done += 1
        drained = time.process_time()
        assert done == n
        return (filled - start) / n * 1e6, (drained - filled) / n * 1e6

    def cancel(self, policy: str) -> float:
        control = self.control(policy)
        tickets = [self.enqueue(control, i) for i in range(len(self.requests))]
        now = len(tickets) * 1e-4
        start = time.process_time()
        for i in self.leavers:
            control.cancel(tickets[i], now)
        return (time.process_time() - start) / len(self.leavers) * 1e6

    def bytes(self, policy: str) -> float:
        control = self.control(policy)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for i in range(len(self.requests)):
            self.enqueue(control, i)
        held = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return held / len(self.requests)

    def steady(self, policy: str, turns: int) -> float:
        """Microseconds of one in and one out while the queue stays full."""
        control, n = self.control(policy), len(self.requests)
        for i in range(n):
            self.enqueue(control, i)
        now = n * 1e-4
        start = time.process_time()
        for i in range(turns):
            flow, size, tokens, _ = self.requests[i % n]
            control.enqueue(None, now, fairness_id=flow, size_bytes=size, input_tokens=tokens)
            for ticket in control.dispatch(now, Slots(1)):
                control.placed(ticket)
                control.finished(ticket, now, output_tokens=self.outputs[i % n])
        return (time.process_time() - start) / turns * 1e6


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--queued", type=int, default=50_000)
    options.add_argument("--flows", type=int, default=200)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    scene = Scene(given.queued, given.flows)
    print(f"{given.queued:,} queued requests in {given.flows} flows; us an operation, best / median")
    wide = " ".join(f"{name:>13}" for name in ("enqueue", "dispatch", "both"))
    print(f"{'policy':22} {wide} {'cancel':>7} {'bytes':>6} {'steady':>7}")
    missed = []
    for policy in POLICIES:
        rounds = [scene.fill_and_drain(policy) for _ in range(given.rounds)]
        columns = [[r[0] for r in rounds], [r[1] for r in rounds], [r[0] + r[1] for r in rounds]]
        cells = " ".join(f"{min(c):6.1f}/{statistics.median(c):6.1f}" for c in columns)
        cancel, held, steady = scene.cancel(policy), scene.bytes(policy), scene.steady(policy, 2_000)
        print(f"{policy:22} {cells} {cancel:7.1f} {held:6.0f} {steady:7.1f}")
        if statistics.median(columns[2]) > WANTED_US or held > WANTED_BYTES:
            missed.append(policy)
    verdict = "missed by " + ", ".join(missed) if missed else "met"
    print(f"wanted: both <= {WANTED_US:g} us, bytes < {WANTED_BYTES:g}: {verdict}")


if __name__ == "__main__":
    main()
