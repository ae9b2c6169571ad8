"""The door's other side: what comes at the door becomes a call."""

from __future__ import annotations

import msgspec

from epp.call import RequestCall
from epp.domain.controls import Controls
from epp.domain.request import RequestHead
from epp.domain.views import Abort
from epp.rooms import Rooms


class Director(Rooms):
    """Everything it is given is built by the composition root."""

    def open(self, head: RequestHead, abort: Abort | None = None) -> RequestCall:
        controls = self.trust.controls(head.headers)
        if controls.stripped:
            head = msgspec.structs.replace(head, headers=controls.headers)
        return RequestCall(self, head, controls, abort)

    def open_answer(self, authority: str = "", pool: str = "") -> RequestCall:
        head = RequestHead(
            headers={},
            method="",
            path="",
            request_id="",
            received_at=self.clock(),
            authority=authority,
            pool=pool,
        )
        return RequestCall(self, head, Controls())
