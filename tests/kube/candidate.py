"""A process that stands for election until it is killed; prints when it leads."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from epp.kube.api import Kube
from epp.kube.election import Terms
from epp.kube.lease import Lease


def _told(leads: bool) -> None:
    print("leads" if leads else "does not lead", flush=True)


async def main() -> None:
    told = json.loads(sys.argv[1])
    kube = await Kube.open(Path(told["kubeconfig"]), {})
    await Lease(
        kube, told["namespace"], told["name"], "candidate", terms=Terms(*told["terms"]), on_change=_told
    ).run()


if __name__ == "__main__":
    asyncio.run(main())
