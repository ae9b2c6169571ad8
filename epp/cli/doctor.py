"""`epp doctor`: what is wrong around the picker, and how to mend it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec
from rich.table import Table

from epp.cli.flags import PORTS
from epp.cli.output import console
from epp.doctor.finding import Finding, Level
from epp.doctor.picker import Address, parse_address
from epp.doctor.visit import Cluster, Patient, Visit, nearby
from epp.domain.pool import POOL_GROUPS

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red", Level.SKIPPED: "dim"}


class AddressType(click.ParamType[Address]):
    """`host:port`."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return parse_address(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class UrlType(click.ParamType[str]):
    """`http://host:port`; without the scheme http is meant."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value) if "://" in str(value) else f"http://{value}"
        try:
            parts = urlsplit(text)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            self.fail(f"{value!r} is no URL; write it like http://127.0.0.1:8081", param, ctx)
        return text


class HeaderType(click.ParamType[tuple[str, str]]):
    """`name: value`."""

    name = "name: value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, colon, content = str(value).partition(":")
        if not colon or not name.strip():
            self.fail(f"{name!r} is no header; write it like 'authorization: Bearer ...'", param, ctx)
        return name.strip().lower(), content.strip()


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--config-file", type=_FILE, help="The picker's configuration.")
@click.option("--endpoints-file", type=_FILE, help="Its endpoints file.")
@click.option("--picker", type=AddressType(), help="Its ext_proc port, such as 127.0.0.1:9002.")
@click.option(
    "--picker-health", type=AddressType(), help="Its gRPC health port; else 9003 of --picker's host."
)
@click.option("--envoy-admin", type=UrlType(), help="Envoy's admin page, such as http://127.0.0.1:19000.")
@click.option(
    "--ext-proc-cluster", multiple=True, metavar="NAME",
    help="Look only at ext_proc filters that call this cluster of Envoy's; may be repeated.",
)  # fmt: skip
@click.option("--gateway", type=UrlType(), help="Send a few short test requests through it.")
@click.option("--insecure", is_flag=True, help="Do not check the gateway's certificate.")
@click.option("--model", default="", help="Model of the test requests; else the first of /v1/models.")
@click.option("--header", type=HeaderType(), multiple=True, help="Of the test requests; may be repeated.")
@click.option(
    "--kubeconfig", type=_FILE, help="Credentials; else KUBECONFIG, the pod's account, or ~/.kube/config."
)
@click.option("--pool-name", default="", help="InferencePool to look at; else every one of the namespace.")
@click.option("--pool-namespace", default="", help="Its namespace; else that of the credentials.")
@click.option("--pool-group", type=click.Choice(POOL_GROUPS), default=POOL_GROUPS[0], show_default=True)
@click.option("--all-pools", is_flag=True, help="Look at every InferencePool of the namespace, the default.")
@click.option("--pool-selector", default="", help="Look at every InferencePool with these labels.")
@click.option(
    "--all-namespaces", is_flag=True, help="With --all-pools or --pool-selector: of every namespace."
)
@click.option(
    "--endpoint-selector", default="", help="Look at pods with these labels, without an InferencePool."
)
@click.option("--endpoint-target-ports", type=PORTS, default=(), help="Ports of each such pod, as 8000,8001.")
@click.option(
    "--as-service-account", default="", metavar="[NAMESPACE/]NAME",
    help="Look at this account's rights instead of your own.",
)  # fmt: skip
@click.option(
    "--endpoint-source", type=click.Choice(["pods", "endpointslices"]), default="pods", show_default=True,
    help="As of `epp serve`: the right to which of them is looked at.",
)  # fmt: skip
@click.option("--ha-enable-leader-election", "leader", is_flag=True, help="Look at the rights on Leases too.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def doctor(output: str, **given: Any) -> None:
    """Look at everything around a picker, and say what is wrong and how to mend it.

    Each option opens its checks. Without any, it looks at what is near: the cluster of the credentials, an
    Envoy's admin page at 127.0.0.1:19000, a picker at 127.0.0.1:9002. Nothing is changed; with --gateway a
    few requests of one token each are sent. Exits with status 1 on an error.
    """
    findings = asyncio.run(_findings(_patient(**given)))
    if output == "json":
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(findings), indent=2) + b"\n")
    else:
        out = console()
        out.print(_table(findings))
        out.print(", ".join(f"{_count(findings, level)} {level}" for level in Level))
    if _count(findings, Level.ERROR):
        raise click.exceptions.Exit(1)


async def _findings(patient: Patient | None) -> list[Finding]:
    absent: list[Finding] = []
    if patient is None:
        patient, absent = await nearby(os.environ)
    visit = Visit(patient)
    await visit.run()
    return [*visit.findings, *absent]


def _patient(
    *,
    config_file: Path | None,
    endpoints_file: Path | None,
    picker: Address | None,
    picker_health: Address | None,
    envoy_admin: str | None,
    ext_proc_cluster: tuple[str, ...],
    gateway: str | None,
    insecure: bool,
    model: str,
    header: tuple[tuple[str, str], ...],
    kubeconfig: Path | None,
    pool_name: str,
    pool_namespace: str,
    pool_group: str,
    all_pools: bool,
    pool_selector: str,
    all_namespaces: bool,
    endpoint_selector: str,
    endpoint_target_ports: tuple[int, ...],
    as_service_account: str,
    endpoint_source: str,
    leader: bool,
) -> Patient | None:
    """None where nothing is named."""
    many = all_pools or bool(pool_selector)
    if pool_name and many:
        raise click.UsageError("--pool-name looks at one pool; leave out --all-pools and --pool-selector")
    if all_namespaces and not many:
        raise click.UsageError("--all-namespaces needs --all-pools or --pool-selector")
    if endpoint_selector and (pool_name or many):
        raise click.UsageError("--endpoint-selector looks at pods without an InferencePool: name no pools")
    if bool(endpoint_selector) != bool(endpoint_target_ports):
        raise click.UsageError("--endpoint-selector and --endpoint-target-ports go together")
    cluster = None
    if pool_name or many or endpoint_selector or kubeconfig or as_service_account or pool_namespace or leader:
        cluster = Cluster(
            kubeconfig=kubeconfig,
            pool=pool_name,
            namespace=pool_namespace,
            group=pool_group,
            pool_selector=pool_selector,
            all_namespaces=all_namespaces,
            pods=endpoint_selector,
            ports=endpoint_target_ports,
            account=as_service_account,
            leader=leader,
            slices=endpoint_source == "endpointslices",
        )
    if not (config_file or endpoints_file or picker or picker_health or envoy_admin or gateway or cluster):
        return None
    return Patient(
        config=config_file,
        endpoints=endpoints_file,
        envoy_admin=envoy_admin or "",
        ext_proc_clusters=ext_proc_cluster,
        gateway=gateway or "",
        insecure=insecure,
        model=model,
        headers=dict(header),
        picker=picker,
        health=picker_health,
        cluster=cluster,
    )


def _table(findings: list[Finding]) -> Table:
    table = Table(show_lines=True)
    table.add_column("level", no_wrap=True)
    for name in ("looked at", "found", "how to mend it"):
        table.add_column(name, overflow="fold")
    for one in findings:
        table.add_row(one.level, one.subject, one.found, one.mend, style=_STYLES[one.level])
    return table


def _count(findings: list[Finding], level: Level) -> int:
    return sum(1 for one in findings if one.level is level)
