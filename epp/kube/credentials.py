"""Which cluster is spoken to, and as whom: a kubeconfig or the pod's own service account.

The official client reads both formats, exec plugins and OpenID included. When they are read again is up
to the caller's monotonic clock: expiry dates are of little use to a node whose clock is wrong.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its service account."""

ACCOUNT_AGE_S = 60.0
"""A kubelet puts a fresh token into the file long before the old one expires."""
KUBECONFIG_AGE_S = 600.0
"""An exec plugin may take a second and a login; its tokens live for 15 minutes and more."""


class KubeConfigError(ValueError):
    """No cluster can be spoken to as things are set; the message says what to set."""


class Credentials:
    """`load` gives the official client's Configuration as it is now."""

    def __init__(self, kubeconfig: Path | None, environ: Mapping[str, str], account: Path = ACCOUNT) -> None:
        """In order: the kubeconfig named, KUBECONFIG, the pod's service account, ~/.kube/config."""
        self._environ = environ
        self._account = account
        self._paths = str(kubeconfig) if kubeconfig is not None else environ.get("KUBECONFIG", "")
        in_cluster = bool(environ.get("KUBERNETES_SERVICE_HOST"))
        home = Path(environ.get("HOME", "/")) / ".kube" / "config"
        if not self._paths and not in_cluster and home.is_file():
            self._paths = str(home)
        if not self._paths and not in_cluster:
            raise KubeConfigError(
                "no Kubernetes API is known: KUBERNETES_SERVICE_HOST is not set, so this is no pod, and "
                "neither --kubeconfig nor KUBECONFIG names a file"
            )
        self.age_s = KUBECONFIG_AGE_S if self._paths else ACCOUNT_AGE_S

    async def load(self) -> Any:
        """Raises KubeConfigError."""
        configuration = importlib.import_module("kubernetes.aio.client.configuration").Configuration()
        try:
            if self._paths:
                self._readable()
                loader = importlib.import_module("kubernetes.aio.config.kube_config")
                # Not written back: a file that a user or a mounted Secret owns is none of ours.
                await loader.load_kube_config(
                    self._paths, client_configuration=configuration, persist_config=False
                )
            else:
                loader = importlib.import_module("kubernetes.aio.config.incluster_config")
                loader.InClusterConfigLoader(
                    token_filename=str(self._account / "token"),
                    cert_filename=str(self._account / "ca.crt"),
                    try_refresh_token=False,
                    environ=self._environ,
                ).load_and_set(configuration)
        except KubeConfigError:
            raise
        except Exception as error:  # the client raises whatever its YAML, OIDC and exec parts meet
            where = f"kubeconfig {self._paths}" if self._paths else f"service account in {self._account}"
            raise KubeConfigError(f"{where}: {error}") from error
        return configuration

    def namespace(self) -> str:
        """Of the pod, or of the kubeconfig's current context; "default" if neither says."""
        if not self._paths:
            with contextlib.suppress(OSError):
                return (self._account / "namespace").read_text().strip() or "default"
            return "default"
        current = ""
        contexts: list[Any] = []
        for path in self._readable():
            with contextlib.suppress(OSError, yaml.YAMLError, AttributeError):
                told = yaml.safe_load(path.read_text())
                # As the client merges files: the last current-context, the first of a name.
                current = told.get("current-context") or current
                contexts += told.get("contexts") or []
        for row in contexts:
            if isinstance(row, dict) and row.get("name") == current:
                return str((row.get("context") or {}).get("namespace") or "default")
        return "default"

    def _readable(self) -> list[Path]:
        paths = [Path(path).expanduser() for path in self._paths.split(":") if path]
        found = [path for path in paths if path.is_file()]
        if not found:
            raise KubeConfigError(f"no kubeconfig file at {self._paths}")
        for path in found:
            try:
                told = yaml.safe_load(path.read_text())
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise KubeConfigError(f"kubeconfig {path}: {error}") from error
            if told is not None and not isinstance(told, dict):
                words = "it is not a mapping with clusters, users and contexts"
                raise KubeConfigError(f"{path} is no kubeconfig: {words}")
        return found


def files_of(configuration: Any) -> tuple[bytes, ...]:
    """What the TLS context is made of: when that changes, the connections have to be made anew."""
    paths = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    contents = (Path(path).read_bytes() if path else b"" for path in paths)
    return (str(configuration.host).encode(), *contents)
