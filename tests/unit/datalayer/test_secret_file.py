"""Secrets that are replaced while we run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from epp.admission.trust import Taken, Trust, TrustSettings
from epp.config.trust import Secret
from epp.datalayer.secret_file import SecretFile
from tests.unit.datalayer.engines_up import running


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


async def test_the_next_secret_counts_and_a_file_that_goes_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "secret"
    path.write_text("hush-1")
    secret = Secret(header="k", file=str(path))
    trust = Trust(TrustSettings(objective=Taken.SECRET, secret="k", secrets=secret.read({})))
    told: asyncio.Queue[int] = asyncio.Queue()

    def found(secrets: tuple[bytes, ...]) -> None:
        trust.replace_secrets(secrets)
        told.put_nowait(len(secrets))

    def objective(key: str) -> str:
        return trust.controls({"k": key, "x-llm-d-inference-objective": "gold"}).objective

    caplog.set_level(logging.INFO)
    async with running(SecretFile(path, lambda: secret.read({}), found, held=secret.read({})).run):
        assert (objective("hush-1"), objective("hush-2")) == ("gold", "")
        beside = tmp_path / "new"
        beside.write_text("hush-1\nhush-2")
        beside.replace(path)
        assert await told.get() == 2
        assert (objective("hush-1"), objective("hush-2")) == ("gold", "gold")
        path.unlink()
        while "stay in force" not in caplog.text:
            await asyncio.sleep(0.01)
        path.write_text("hush-2")
        assert await told.get() == 1
        assert (objective("hush-1"), objective("hush-2")) == ("", "gold")
    assert "hush" not in caplog.text
