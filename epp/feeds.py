"""What tells a pool of its endpoints and objectives where no cluster does: files, and names in DNS.

And the secret behind which control headers are believed.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from epp.admission.trust import Trust
from epp.config.data import FILE_DISCOVERY
from epp.config.loaded import Loaded
from epp.config.objectives import read_objectives
from epp.config.trust import Trust as TrustBlock
from epp.datalayer.counting import ScrapeErrors
from epp.datalayer.endpoints_file import EndpointsFileError
from epp.datalayer.files import FileDiscovery
from epp.datalayer.objectives import ObjectiveFiles
from epp.datalayer.resolve import Resolver
from epp.datalayer.secret_file import SecretFile
from epp.known import Known

OBJECTIVES = "objectives"
"""Their name where refused files are counted."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where a pool is described."""

    endpoints: Path
    watch: bool = True
    objectives: Path | None = None
    pool: str = ""
    """Only its objectives count; empty for every pool's."""


def files_of(
    loaded: Loaded, *, endpoints_file: Path | None, objectives_path: Path | None, pool: str
) -> Files:
    """The flags win over the configuration. Raises ValueError without any discovery, or with two."""
    discovery, path = loaded.data.discovery, loaded.own.objectives.path
    objectives = objectives_path or (Path(path) if path else None)
    if endpoints_file is not None and discovery is not None:
        raise ValueError("--endpoints-file and a file-discovery plugin exclude each other")
    if endpoints_file is not None:
        return Files(endpoints_file, True, objectives, pool)
    if discovery is not None:
        return Files(Path(discovery.path), discovery.watch_file, objectives, pool)
    raise ValueError(
        "no endpoints: give --endpoints-file, a file-discovery plugin under dataLayer.discovery, or, in a "
        "cluster, --pool-name with a kubeconfig or service account, --endpoint-selector or --all-pools"
    )


class FileFeeds:
    """`load` once, then run every coroutine of `work` until cancelled."""

    def __init__(self, files: Files, known: Known, errors: ScrapeErrors) -> None:
        store = known.store
        self._errors = errors
        self._resolver = Resolver(lambda specs: store.set_endpoints(specs, monotonic()))
        self._files = FileDiscovery(
            files.endpoints, self._resolver.set_specs, watch=files.watch, refused=self._refused
        )
        self._objectives: ObjectiveFiles | None = None
        if files.objectives is not None:
            self._objectives = ObjectiveFiles(
                files.objectives,
                known.objectives,
                partial(read_objectives, pool=files.pool),
                refused=partial(errors.poll_errors, OBJECTIVES),
                rewrites=known.rewrites,
            )

    def _refused(self, error: EndpointsFileError) -> None:
        self._errors.poll_errors(FILE_DISCOVERY)

    def load(self) -> None:
        """First reading of the files; raises EndpointsFileError and ObjectivesError."""
        if self._objectives is not None:
            self._objectives.load()
        self._files.load()

    def work(self) -> Sequence[Coroutine[Any, Any, None]]:
        """What is to run; each ends only by cancellation, or at once when there is nothing to watch."""
        work = [self._files.run(), self._resolver.run()]
        if self._objectives is not None:
            work.append(self._objectives.run())
        return work


def open_trust(own: TrustBlock | None, environ: Mapping[str, str]) -> tuple[Trust, SecretFile | None]:
    """Whose control headers are believed, and what keeps its secret as the file has it; that is to run until
    cancelled. Raises ValueError where there is no secret."""
    if own is None:
        return Trust(), None
    settings = own.settings(environ)
    trust = Trust(settings)
    secret = own.secret
    if secret is None or not secret.file:
        return trust, None
    read = partial(secret.read, environ)
    return trust, SecretFile(secret.file, read, trust.replace_secrets, held=settings.secrets)
