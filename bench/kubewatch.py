"""Thousands of pods on a real API server: what it costs to list and to follow them.

    python bench/kubewatch.py [--pods 5000] [--changes 5000]

Needs `.ci/build-kube`. Creates the pods through the API, each of the size of an engine's, then follows them
in a process of its own, once with whole objects kept and once with what the picker keeps of a pod. Prints one
table: seconds until the whole list was told, memory, the longest CPU time between two turns of the loop;
then, while pods are changed as fast as the API server takes it, how late a change was seen.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from epp.kube.api import Kube  # noqa: E402
from epp.kube.informer import Informer  # noqa: E402
from epp.kube.pods import Pod, PodWatcher, trim  # noqa: E402
from epp.kube.resource import PODS  # noqa: E402
from tests.kube.rig import ApiServer, Object, parts  # noqa: E402

NAMESPACE = "engines"
LABELS = {"app": "engine"}
STAMP = "llm-d.ai/active-ports"
"""The annotation that a change writes the clock into: one that the picker keeps."""
CREATORS = 8
TICK_S = 0.002


def pod(number: int) -> Object:
    """About what a Deployment makes of an engine: 8 KB as the API tells it."""
    env = [{"name": f"ENGINE_SETTING_{one}", "value": f"value-of-setting-{one}" * 2} for one in range(35)]
    probe = {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 5, "failureThreshold": 3}
    container = {
        "name": "engine",
        "image": "registry.example/engines/vllm@sha256:" + "0" * 64,
        "args": [
            "--model",
            "meta-llama/Llama-3.1-70B-Instruct",
            "--tensor-parallel-size",
            "8",
            "--port",
            "8000",
        ],
        "env": env,
        "ports": [{"containerPort": 8000, "name": "http"}],
        "resources": {
            "limits": {"cpu": "32", "memory": "256Gi"},
            "requests": {"cpu": "16", "memory": "128Gi"},
        },
        "readinessProbe": probe,
        "livenessProbe": probe,
        "volumeMounts": [{"name": f"volume-{one}", "mountPath": f"/mnt/{one}"} for one in range(6)],
    }
    metadata = {
        "name": f"engine-7d9c5b8f6c-{number:05d}",
        "namespace": NAMESPACE,
        "labels": {**LABELS, "pod-template-hash": "7d9c5b8f6c", "model": "llama-3-70b"},
        "annotations": {f"example.com/note-{one}": "x" * 80 for one in range(8)},
    }
    spec = {
        "nodeName": f"node-{number % 500}",
        "containers": [container],
        "volumes": [{"name": f"volume-{one}", "emptyDir": {}} for one in range(6)],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def status(number: int) -> Object:
    ip = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"} for kind in kinds
    ]
    container = {
        "name": "engine", "ready": True, "started": True, "restartCount": 0,
        "image": "registry.example/engines/vllm", "imageID": "sha256:" + "0" * 64,
        "containerID": "containerd://" + "0" * 64,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    }  # fmt: skip
    return {
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "10.255.0.1",
            "conditions": conditions, "containerStatuses": [container], "qosClass": "Burstable",
        }
    }  # fmt: skip


class Whole:
    """A Watcher that keeps everything."""

    def __init__(self) -> None:
        self.objects: Mapping[str, Any] = {}
        self.changes: list[tuple[float, str]] = []

    def replaced(self, objects: Mapping[str, Mapping[str, Any]]) -> None:
        self.objects = dict(objects)

    def changed(self, key: str, object: Mapping[str, Any]) -> None:
        self.objects[key] = object  # type: ignore[index]
        self.changes.append((time.monotonic(), object["metadata"].get("annotations", {}).get(STAMP, "")))

    def removed(self, key: str) -> None: ...


class Kept:
    """A PodSink that keeps what the picker keeps."""

    def __init__(self) -> None:
        self.objects: dict[str, Pod] = {}
        self.changes: list[tuple[float, str]] = []

    def listed(self, pods: Mapping[str, Pod]) -> None:
        self.objects = dict(pods)

    def put(self, pod: Pod) -> None:
        self.objects[pod.key] = pod
        self.changes.append((time.monotonic(), pod.active_ports or ""))

    def gone(self, key: str) -> None: ...


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def held_up(longest: list[float]) -> None:
    """The most CPU time between two turns, in `longest[0]`; what other processes take does not count."""
    before = time.thread_time()
    while True:
        await asyncio.sleep(TICK_S)
        now = time.thread_time()
        longest[0] = max(longest[0], now - before)
        before = now


async def follow(kubeconfig: Path, keep: str, changes: int) -> None:
    """The measured process: a line of JSON after the list, and one after the changes."""
    kube = await Kube.open(kubeconfig, {})
    await kube.get("/version")
    gc.collect()  # as `epp serve` does, so that collections need not walk over every module
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    before = rss_bytes()
    longest = [0.0]
    ticker = asyncio.create_task(held_up(longest))
    began, cpu = time.monotonic(), time.process_time()
    sink: Whole | Kept = Whole() if keep == "whole" else Kept()
    if isinstance(sink, Whole):
        informer = Informer(kube, PODS, sink, namespace=NAMESPACE)
    else:
        informer = Informer(kube, PODS, PodWatcher(sink), namespace=NAMESPACE, trim=trim)
    task = asyncio.create_task(informer.run())
    while not informer.synced:
        await asyncio.sleep(TICK_S)
    listed = {
        "pods": len(sink.objects), "list_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu,
        "held_ms": longest[0] * 1e3, "grown_mb": (rss_bytes() - before) / 1e6,
    }  # fmt: skip
    print(json.dumps(listed), flush=True)
    longest[0], cpu = 0.0, time.process_time()
    while sum(1 for _, stamp in sink.changes if stamp) < changes:
        await asyncio.sleep(0.05)
    stamped = [(at, float(stamp)) for at, stamp in sink.changes if stamp]
    late = sorted(at - stamp for at, stamp in stamped)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    followed = {
        "follow_s": max(at for at, _ in stamped) - min(stamp for _, stamp in stamped),
        "p50_ms": late[len(late) // 2] * 1e3, "p99_ms": late[len(late) * 99 // 100] * 1e3,
        "cpu_us": (time.process_time() - cpu) / changes * 1e6, "held_ms": longest[0] * 1e3,
        "peak_mb": peak / 1e6,
    }  # fmt: skip
    print(json.dumps(followed), flush=True)
    ticker.cancel()
    task.cancel()
    await kube.close()


def in_parallel(work: Callable[[int], object], numbers: range) -> float:
    """Seconds."""
    began = time.monotonic()
    with ThreadPoolExecutor(CREATORS) as pool:
        for _ in pool.map(work, numbers):
            pass
    return time.monotonic() - began


def measure(server: ApiServer, keep: str, pods: int, changes: int) -> dict[str, dict[str, float]]:
    argv = [sys.executable, __file__, "--follow", str(server.kubeconfig()), "--keep", keep]
    argv += ["--changes", str(changes)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines: Iterator[str] = iter(child.stdout)
        told = {"listed": json.loads(next(lines))}

        def change(number: int) -> None:
            thing = {**pod(number % pods), "spec": None}
            server.patch(thing, {"metadata": {"annotations": {STAMP: str(time.monotonic())}}})

        in_parallel(change, range(changes))
        told["followed"] = json.loads(next(lines))
    return told


def clear(server: ApiServer, pods: int) -> None:
    """The stamps of one run must not count in the next."""

    def unstamp(number: int) -> None:
        server.patch(pod(number), {"metadata": {"annotations": {STAMP: None}}})

    in_parallel(unstamp, range(pods))


HEAD = (
    "| kept | list s | CPU s | loop held ms | memory MB "
    "| follow s | late p50 ms | late p99 ms | CPU us a change | loop held ms | peak MB |"
)


def row(name: str, listed: Mapping[str, float], followed: Mapping[str, float]) -> str:
    one, two = listed, followed
    return (
        f"| {name} | {one['list_s']:.2f} | {one['cpu_s']:.2f} | {one['held_ms']:.0f} "
        f"| +{one['grown_mb']:.0f} "
        f"| {two['follow_s']:.1f} | {two['p50_ms']:.1f} | {two['p99_ms']:.0f} | {two['cpu_us']:.0f} "
        f"| {two['held_ms']:.0f} | {two['peak_mb']:.0f} |"
    )


@click.command()
@click.option("--pods", default=5000, show_default=True)
@click.option("--changes", default=5000, show_default=True)
@click.option("--follow", "followed", type=click.Path(path_type=Path), hidden=True)
@click.option("--keep", default="whole", hidden=True)
def main(pods: int, changes: int, followed: Path | None, keep: str) -> None:
    """List and follow thousands of pods on a real API server."""
    if followed is not None:
        asyncio.run(follow(followed, keep, changes))
        return
    found = parts()
    if isinstance(found, str):
        raise click.ClickException(found)
    with tempfile.TemporaryDirectory() as folder:
        server = ApiServer(found, Path(folder))
        try:
            server.start()
            server.namespace(NAMESPACE)

            def create(number: int) -> None:
                made = server.create(pod(number))
                server.patch(made, status(number), part="/status")

            took_s = in_parallel(create, range(pods))
            page = json.dumps(server.request("GET", PODS.path(NAMESPACE) + "?limit=50"))
            size_kb = len(page) / min(50, pods) / 1e3
            print(f"{pods} pods of {size_kb:.1f} KB, made in {took_s:.0f} s by {CREATORS} writers")
            print()
            print(HEAD)
            print("|---" * HEAD.count(" | ") + "|---|")
            for keep, name in (("whole", "whole objects"), ("picker", "what the picker keeps")):
                print(row(name, **measure(server, keep, pods, changes)), flush=True)
                clear(server, min(pods, changes))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
