"""What the demo promises, held against what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from epp.cli.demo.overload.play import Job
from epp.cli.demo.overload.scene import BANDS, FLOODER, Phases
from epp.cli.demo.overload.tally import between, tally

RETRY_AFTER_MAX_S = 60


def complaints(queued: Sequence[Job], unlimited: Sequence[Job], phases: Phases) -> list[str]:
    """Sentences; none where everything held."""
    found = []
    top, *lower = BANDS

    def check(held: bool, sentence: str) -> None:
        if not held:
            found.append(sentence)

    failures = [job.failure for job in (*queued, *unlimited) if job.failure]
    check(not failures, f"{len(failures)} requests failed, the first by: {failures[:1]}")
    first = tally(queued, lambda job: job.ask.band is top)
    check(first.answered == first.asked, f"{first.asked - first.answered} {top.name} requests got no answer")
    check(not first.refusals, f"{first.refusals} {top.name} requests were refused")
    below = tally(queued, lambda job: job.ask.band in lower)
    check(below.refusals > 0, "nobody was refused: there was no overload")
    least, most = below.retry_after_s or (1, 1)
    check(least >= 1 and most <= RETRY_AFTER_MAX_S, f"Retry-After was between {least} and {most} s")
    small = tally(queued, lambda job: job.ask.band is lower[0] and job.ask.tenant != FLOODER)
    enough = small.answered >= 0.9 * small.asked
    check(
        enough, f"of those who do not flood {small.answered} of {small.asked} {lower[0].name} got an answer"
    )
    flood = [
        tally(between(jobs, phases.flood_at, phases.ebb_at), lambda job: job.ask.band is top)
        for jobs in (queued, unlimited)
    ]
    mine, theirs = (one.ttft_p99_s or 0.0 for one in flood)
    check(
        mine < theirs, f"{top.name} requests waited as long as without queues: {mine:.2f} s, {theirs:.2f} s"
    )
    calm = tally(between(queued, phases.calm_at), lambda job: job.ask.band is not BANDS[-1])
    check(calm.answered == calm.asked, "after the flood not everybody was answered at once")
    left = tally(queued).waiting
    check(not left, f"{left} requests still waited at the end")
    return found
