"""Objects of `kind: InferenceObjective`; and files of them, with the rewrites that stand beside them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta

from epp.config.objects import Document, Kind, Spec, read_files
from epp.config.problems import Path, Report
from epp.config.rewrites import REWRITE
from epp.datalayer.objectives import ObjectivesError, ObjectivesRead
from epp.domain.objective import Objective

Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class _Spec(Spec, frozen=True):
    priority: Int32 | None = None


class _Document(Document, kw_only=True, frozen=True):
    spec: _Spec


def _build(document: _Document, at: Path, report: Report) -> Objective:
    return Objective(document.metadata.name, document.spec.priority or 0)


OBJECTIVE = Kind("InferenceObjective", "objective", _Document, _build)


def read_objectives(files: Iterable[tuple[str, bytes]], pool: str = "") -> ObjectivesRead:
    """Those of `files` (name and content) that belong to `pool`; of every pool when it has no name.

    Raises ObjectivesError with every mistake of all files.
    """
    read = read_files(files, (OBJECTIVE, REWRITE), pool)
    if read.problems:
        raise ObjectivesError(read.problems)
    return ObjectivesRead(
        {one.name: one for one in read.items[OBJECTIVE.name]}, read.notices, tuple(read.items[REWRITE.name])
    )
