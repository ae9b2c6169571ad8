"""What the director tells the queues of a request."""

from __future__ import annotations

from epp.admission.control import FlowControl
from epp.admission.settings import FlowControlSettings
from epp.admission.stages import StagedDetector
from epp.domain.views import Route
from epp.queues import Entry, Place, Queues
from tests.house import House, chat
from tests.unit.test_queues import PerEndpoint


def test_the_output_that_is_expected_is_charged_to_its_flow_at_once() -> None:
    house = House()
    director = house.director
    left: list[Entry] = []
    director.queues = Queues(
        FlowControl[Place](FlowControlSettings(), director.clock()),
        StagedDetector(PerEndpoint(10)),
        store=director.store,
        inflight=director.ledger,
        clock=director.clock,
        chance=lambda: 0.0,
    )
    director.queues.on_left = left.append
    for _ in range(50):
        director.outputs.saw("m", 70)
    assert isinstance(house.open().decide(chat()), Route)
    assert isinstance(house.open().decide(chat(max_tokens=5)), Route)
    assert [ticket.expected_output for ticket in left] == [
        director.outputs.expected("m", None),
        director.outputs.expected("m", 5),
    ]
    assert left[1].expected_output == 5 < left[0].expected_output
