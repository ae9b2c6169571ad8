"""A real etcd and kube-apiserver on loopback, made by `.ci/build-kube`, and a small client of their API.

The client is its own, so that nothing under test is also what it is tested with.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import itertools
import json
import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from bench.stack import Child, StackError, free_port

Object = dict[str, Any]

ADMIN = "admin"
"""May do everything. The other users may do nothing until `grant`."""
USERS = ("alice", "bob", "picker")
_serial = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Parts:
    """What `.ci/build-kube` found or built."""

    kube_apiserver: str
    kubectl: str
    helm: str
    etcd: str
    inference_crds: str
    gateway_crds: str


def parts() -> Parts | str:
    """The parts, or why they are not there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "epp" / "kube"
    try:
        found = Parts(**json.loads((cache / "parts.json").read_text()))
    except FileNotFoundError:
        return (
            f"no kube-apiserver: run .ci/build-kube, which needs Go and etcd (looked for {cache}/parts.json)"
        )
    gone = [
        path for path in (found.kube_apiserver, found.etcd, found.inference_crds) if not Path(path).exists()
    ]
    return f"not there any more, run .ci/build-kube: {', '.join(gone)}" if gone else found


class ApiError(RuntimeError):
    """An answer that is no success."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status


class Server:
    """One etcd, one kube-apiserver and their folder. Methods block for milliseconds; threads may share it."""

    def __init__(self, parts: Parts, folder: Path) -> None:
        self.parts = parts
        self.folder = folder
        self.port = free_port()
        self.etcd_port = free_port()
        self._started: list[Child] = []
        self._local = threading.local()
        self._connections: list[http.client.HTTPSConnection] = []
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}

    # Processes

    def start(self) -> None:
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        users = [
            f"{ADMIN}-token,{ADMIN},{ADMIN},system:masters",
            *(f"{user}-token,{user},{user}" for user in USERS),
        ]
        (folder / "tokens.csv").write_text("\n".join(users) + "\n")
        if not (folder / "account.key").exists():
            subprocess.run(
                ["openssl", "genrsa", "-out", "account.key", "2048"],
                cwd=folder,
                check=True,
                capture_output=True,
            )
        etcd = f"http://127.0.0.1:{self.etcd_port}"
        argv = [
            self.parts.etcd,
            "--data-dir",
            str(folder / "etcd"),
            "--unsafe-no-fsync",
            "--log-level",
            "error",
        ]
        argv += ["--listen-client-urls", etcd, "--advertise-client-urls", etcd]
        argv += ["--listen-peer-urls", f"http://127.0.0.1:{free_port()}"]
        self.etcd = Child("etcd", argv, folder / "etcd.log")
        self._started.append(self.etcd)
        argv = [self.parts.kube_apiserver, f"--etcd-servers={etcd}", f"--secure-port={self.port}"]
        argv += ["--bind-address=127.0.0.1", "--cert-dir=" + str(folder / "certs"), "--profiling=false"]
        argv += [f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC"]
        argv += [
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
        ]
        argv += [f"--service-account-key-file={folder / 'account.key'}"]
        argv += [f"--service-account-signing-key-file={folder / 'account.key'}"]
        # No controller makes the default account of a namespace, which the admission of every pod asks for.
        argv += ["--disable-admission-plugins=ServiceAccount"]
        self.process = Child("kube-apiserver", argv, folder / "kube-apiserver.log")
        self._started.append(self.process)
        self.process.wait_for(self.ready, patience_s=90)

    def ready(self) -> bool:
        try:
            self._exchange("GET", "/readyz", None, ADMIN, "")
        except (OSError, http.client.HTTPException, ApiError):
            return False
        return True

    def kill(self) -> None:
        """The API server ends at once, as by SIGKILL; etcd stays."""
        self.process.kill()

    def restart(self) -> None:
        """After `kill`: the same address, the same data."""
        self.process.restart()
        self.process.wait_for(self.ready, patience_s=90)

    def stop(self) -> None:
        for connection in self._connections:
            connection.close()
        for child in reversed(self._started):
            child.resume()
            if child.status is None:
                child.kill()  # nothing in it is kept

    # The API

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        return self.folder / "certs" / "apiserver.crt"

    def kubeconfig(self, user: str = ADMIN, *, namespace: str = "default", token: str = "") -> Path:
        """A file for `user`, or for whoever `token` stands for."""
        path = self.folder / f"kubeconfig-{next(_serial)}.yaml"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "c", "cluster": {"server": self.url, "certificate-authority": str(self.ca)}}
            ],
            "users": [{"name": "u", "user": {"token": token or f"{user}-token"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
            "current-context": "x",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def account(self, folder: Path, token: str, *, namespace: str = "default") -> dict[str, str]:
        """A folder as a pod finds its service account in, and the environment that goes with it."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.ca, folder / "ca.crt")
        (folder / "namespace").write_text(namespace)
        (folder / "token").write_text(token)
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        user: str = ADMIN,
        content: str = "application/json",
    ) -> Object:
        """One exchange; the answer's JSON. Raises ApiError for what is no success."""
        text = self._exchange(method, path, None if body is None else json.dumps(body), user, content)
        return cast(Object, json.loads(text))

    def _exchange(self, method: str, path: str, body: str | None, user: str, content: str) -> str:
        headers = {"Authorization": f"Bearer {user}-token"} | ({"Content-Type": content} if body else {})
        kept = getattr(self._local, "connection", None)
        if kept is not None:
            try:
                return self._answer(kept, method, path, body, headers)
            except (OSError, http.client.HTTPException):
                kept.close()  # the server has closed it meanwhile
                self._local.connection = None
        trust = ssl.create_default_context(cafile=str(self.ca))
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=trust)
        self._connections.append(connection)
        answer = self._answer(connection, method, path, body, headers)
        self._local.connection = connection
        return answer

    def _answer(
        self,
        connection: http.client.HTTPSConnection,
        method: str,
        path: str,
        body: str | None,
        headers: Mapping[str, str],
    ) -> str:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        text = response.read().decode()
        if response.status >= 400:
            raise ApiError(response.status, text)
        return text

    def path_of(self, thing: Mapping[str, Any], *, named: bool = True) -> str:
        """Where an object lives: its kind's plural is asked of the API."""
        version, kind = str(thing["apiVersion"]), str(thing["kind"])
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if (version, kind) not in self._kinds:
            for row in self.request("GET", root)["resources"]:
                if "/" not in row["name"]:
                    self._kinds[version, row["kind"]] = (row["name"], row["namespaced"])
        plural, namespaced = self._kinds[version, kind]
        metadata = thing["metadata"]
        space = f"/namespaces/{metadata['namespace']}" if namespaced else ""
        return f"{root}{space}/{plural}" + (f"/{metadata['name']}" if named else "")

    def create(self, thing: Mapping[str, Any]) -> Object:
        return self.request("POST", self.path_of(thing, named=False), thing)

    def read(self, thing: Mapping[str, Any]) -> Object:
        return self.request("GET", self.path_of(thing))

    def patch(self, thing: Mapping[str, Any], change: Mapping[str, Any], *, part: str = "") -> Object:
        """A JSON merge patch of an object or of its subresource `part` ("/status")."""
        return self.request(
            "PATCH", self.path_of(thing) + part, change, content="application/merge-patch+json"
        )

    def delete(self, thing: Mapping[str, Any], *, grace_s: int = 0) -> None:
        """With a grace period a pod stays, marked as ending, until it is deleted again without one."""
        self.request("DELETE", self.path_of(thing), {"gracePeriodSeconds": grace_s})

    # Below the API

    def etcd_request(self, path: str, body: Mapping[str, Any]) -> Object:
        """A call of etcd's JSON gateway, such as "/v3/kv/compaction"."""
        connection = http.client.HTTPConnection("127.0.0.1", self.etcd_port, timeout=30)
        try:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            raise ApiError(response.status, text)
        return cast(Object, json.loads(text))

    def etcd_delete(self, key: str) -> None:
        """Removes an object while the API server is away; pods are at /registry/pods/<namespace>/<name>."""
        gone = self.etcd_request("/v3/kv/deleterange", {"key": base64.b64encode(key.encode()).decode()})
        if gone.get("deleted") != "1":
            raise KeyError(key)

    def etcd_compact(self) -> None:
        """Forgets all history, so that a watch from an old version is answered with 410."""
        revision = self.etcd_request("/v3/kv/range", {"key": base64.b64encode(b"x").decode()})["header"][
            "revision"
        ]
        self.etcd_request("/v3/kv/compaction", {"revision": revision, "physical": True})

    def kubectl(self, *args: str, stdin: str = "") -> str:
        """What kubectl prints, as the administrator. Raises CalledProcessError, its complaint in `stderr`."""
        argv = [self.parts.kubectl, f"--server={self.url}", f"--certificate-authority={self.ca}"]
        argv += [f"--token={ADMIN}-token", *args]
        env = {**os.environ, "KUBECONFIG": os.devnull, "HOME": str(self.folder)}
        done = subprocess.run(argv, input=stdin, text=True, capture_output=True, env=env, check=True)
        return done.stdout


def wait_until(condition: Callable[[], bool], what: str, *, patience_s: float = 30.0) -> None:
    """Looks again and again until it is so, for code without a loop."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(f"never: {what}")
        time.sleep(0.02)


async def until(condition: Callable[[], bool], what: str, *, patience_s: float = 30.0) -> None:
    """The same on a loop, which goes on meanwhile; the condition is asked on the loop."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.01)
