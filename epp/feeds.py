"""What feeds the store: discovery, name resolution, scraping and model lists, as the configuration asks.

And what feeds the objectives and the secret behind which control headers are believed.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from epp.admission.trust import Trust
from epp.config.data import FILE_DISCOVERY, DataSettings
from epp.config.objectives import read_objectives
from epp.config.trust import Trust as TrustBlock
from epp.datalayer.counting import FirstTokens, Reachability, ScrapeErrors
from epp.datalayer.endpoints_file import EndpointsFileError
from epp.datalayer.files import FileDiscovery
from epp.datalayer.models import ModelProbe, ModelProber
from epp.datalayer.objectives import ObjectiveFiles, Objectives
from epp.datalayer.pace import DEFAULT_INTERVAL_S, Pace
from epp.datalayer.resolve import Resolver
from epp.datalayer.scrape import Scraper
from epp.datalayer.secret_file import SecretFile
from epp.datalayer.store import Store
from epp.domain.endpoint import EndpointSpec

OBJECTIVES = "objectives"
"""Their name where refused files are counted."""


class Feeds:
    """Builds the writers of one store. `load` once, then run every coroutine of `work` until cancelled."""

    def __init__(
        self,
        data: DataSettings,
        store: Store,
        *,
        endpoints_file: Path | None,
        scrape_interval_s: float | None,
        scrape_budget: float,
        errors: ScrapeErrors,
        reachability: Reachability | None = None,
        first_tokens: FirstTokens | None = None,
        objectives: Objectives | None = None,
        objectives_path: Path | None = None,
        pool: str = "",
    ) -> None:
        """Raises ValueError without any discovery, OSError for TLS files that cannot be used.

        Objectives are those of `pool`; of every pool when it is empty.
        """
        self._resolver = Resolver(lambda specs: store.set_endpoints(specs, monotonic()))
        if endpoints_file is not None and data.discovery is not None:
            raise ValueError("--endpoints-file and a file-discovery plugin exclude each other")
        if endpoints_file is not None:
            path, watch = endpoints_file, True
        elif data.discovery is not None:
            path, watch = Path(data.discovery.path), data.discovery.watch_file
        else:
            raise ValueError(
                "no endpoints: give --endpoints-file, or a file-discovery plugin under dataLayer.discovery "
                "(finding endpoints through Kubernetes is not supported yet)"
            )
        self._errors = errors
        self._files = FileDiscovery(path, self._found, watch=watch, refused=self._file_refused)
        self._objectives: ObjectiveFiles | None = None
        if objectives is not None and objectives_path is not None:
            self._objectives = ObjectiveFiles(
                objectives_path,
                objectives,
                partial(read_objectives, pool=pool),
                refused=partial(errors.poll_errors, OBJECTIVES),
            )
        self.scraper: Scraper | None = None
        if data.scrape is not None:
            self.scraper = Scraper(pace=Pace(budget=scrape_budget))
            self.scraper.join(
                store,
                source=data.scrape.source,
                engines=data.engines,
                interval_s=data.scrape.interval_s or scrape_interval_s or DEFAULT_INTERVAL_S,
                errors=errors,
                reachability=reachability,
                first_tokens=first_tokens,
            )
        self._prober = ModelProber()
        self.models: ModelProbe | None = None
        if data.models is not None:
            self.models = self._prober.join(store, source=data.models, errors=errors)

    def _found(self, specs: Sequence[EndpointSpec]) -> None:
        self._resolver.set_specs(specs)

    def _file_refused(self, error: EndpointsFileError) -> None:
        self._errors.poll_errors(FILE_DISCOVERY)

    def load(self) -> None:
        """First reading of the files; raises EndpointsFileError and ObjectivesError."""
        if self._objectives is not None:
            self._objectives.load()
        self._files.load()

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run; each ends only by cancellation, or at once when there is nothing to watch."""
        work = [self._files.run(), self._resolver.run()]
        if self._objectives is not None:
            work.append(self._objectives.run())
        if self.scraper is not None:
            work.append(self.scraper.run())
        if self.models is not None:
            work.append(self._prober.run())
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
