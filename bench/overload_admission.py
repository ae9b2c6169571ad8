"""The admissions that bench/overload.py compares, each on the picker's own rooms.

An admission is told what happens and answers through the door that it is given: send a request to the
engines now, or refuse it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random
from typing import Protocol

from overload_scene import Job
from policy_routers import Picker

from epp.admission.control import FlowControl
from epp.admission.refusals import evicted, refusal
from epp.admission.saturation import SaturationDetector, UtilizationDetector, UtilizationParameters, room_of
from epp.admission.settings import FlowControlSettings
from epp.admission.stages import StagedDetector
from epp.admission.ticket import Outcome, Ticket
from epp.domain.errors import Reason, Refused


class Door(Protocol):
    def send(self, job: Job) -> None:
        """Routed and counted in the ledger before this returns."""

    def refuse(self, job: Job, refused: Refused) -> None: ...

    def abort(self, job: Job, refused: Refused) -> int:
        """It runs and is broken off; gives its output tokens so far."""


class Admission(Protocol):
    def arrive(self, job: Job, now: float) -> None: ...

    def finished(self, job: Job, now: float) -> None: ...

    def wake(self, now: float) -> None:
        """A request ended or an engine was scraped. Or `next_at` is reached."""

    def next_at(self) -> float:
        """When it must be woken at the latest."""


Build = Callable[[Picker, Door], Admission]


class Open:
    """Everything goes at once."""

    def __init__(self, picker: Picker, door: Door) -> None:
        self._door = door

    def arrive(self, job: Job, now: float) -> None:
        self._door.send(job)

    def finished(self, job: Job, now: float) -> None:
        pass

    def wake(self, now: float) -> None:
        pass

    def next_at(self) -> float:
        return inf


class Shedding(Open):
    """The reference's rules without flow control: a negative priority is refused while the pool's saturation,
    as its default detector sees it in the metrics, is 1 or more."""

    def __init__(self, picker: Picker, door: Door) -> None:
        super().__init__(picker, door)
        self._picker = picker
        self._detector = UtilizationDetector(UtilizationParameters())

    def arrive(self, job: Job, now: float) -> None:
        if job.ask.band.priority < 0:
            snapshot = self._picker.store.snapshot
            load = self._detector.saturation(snapshot, snapshot.every, self._picker.ledger, now)
            if load >= 1.0:
                self._door.refuse(job, Refused(Reason.SHED, "the pool is saturated"))
                return
        self._door.send(job)


class Queued:
    """Flow control."""

    def __init__(
        self,
        picker: Picker,
        door: Door,
        settings: FlowControlSettings,
        detector: SaturationDetector,
        seed: int,
    ) -> None:
        self._picker = picker
        self._door = door
        self._detector = StagedDetector(detector)
        self.control: FlowControl[Job] = FlowControl(settings, 0.0)
        self._tickets: dict[Job, Ticket[Job]] = {}
        """Sent and not finished."""
        self._rng = Random(f"{seed}/jitter")

    def arrive(self, job: Job, now: float) -> None:
        control, ask = self.control, job.ask
        priority, flow, size_bytes = ask.band.priority, f"tenant-{ask.tenant}", 4 * ask.prompt_tokens
        if control.refuses(priority, size_bytes) is not None:
            for victim in control.make_room(priority, flow, size_bytes, now):
                self._refuse(victim.waiter, Outcome.REJECTED_CAPACITY)
        outcome = control.enqueue(
            job, now, priority=priority, fairness_id=flow, size_bytes=size_bytes,
            input_tokens=ask.prompt_tokens, expected_output=self._picker.outputs.expected("model", None),
        )  # fmt: skip
        if isinstance(outcome, Outcome):
            self._refuse(job, outcome)
        else:
            self.wake(now)

    def finished(self, job: Job, now: float) -> None:
        ask = job.ask
        ticket = self._tickets.pop(job)
        self.control.finished(ticket, now, input_tokens=ask.prompt_tokens, output_tokens=ask.output_tokens)

    def wake(self, now: float) -> None:
        control = self.control
        for late in control.expire(now):
            assert late.outcome is not None
            self._refuse(late.waiter, late.outcome)
        if not len(control):
            return
        snapshot = self._picker.store.snapshot
        room = room_of(self._detector, snapshot, snapshot.every, self._picker.ledger, now)
        for ticket in control.dispatch(now, room):
            self._tickets[ticket.waiter] = ticket
            self._door.send(ticket.waiter)
            control.placed(ticket)
        for victim in control.evict(now):
            del self._tickets[victim.waiter]
            seconds = control.retry_after_s(victim.priority, self._rng.random())
            control.finished(victim, now, output_tokens=self._door.abort(victim.waiter, evicted(seconds)))

    def next_at(self) -> float:
        return self.control.next_expiry()

    def _refuse(self, job: Job, outcome: Outcome) -> None:
        seconds = self.control.retry_after_s(job.ask.band.priority, self._rng.random())
        self._door.refuse(job, refusal(outcome, retry_after_s=seconds))
