"""What every stream says is written now and then."""

from __future__ import annotations

import logging

import pytest

from epp.extproc.sparing import KINDS_MAX, SparingLog


def test_a_message_is_said_once_in_ten_seconds_with_its_count(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = SparingLog(logging.getLogger("epp.test"), lambda: now)
    with caplog.at_level(logging.WARNING, logger="epp.test"):
        for step in range(25):
            now = float(step)
            log.say(logging.WARNING, "broken")
            log.say(logging.WARNING, "other") if step == 3 else None
    assert [record.getMessage() for record in caplog.records] == [
        "broken", "other", "broken (9 more times since the last line)",
        "broken (9 more times since the last line)",
    ]  # fmt: skip


def test_messages_that_are_all_different_are_not_kept() -> None:
    log = SparingLog(logging.getLogger("epp.test"), lambda: 0.0)
    for number in range(10 * KINDS_MAX):
        log.say(logging.DEBUG, f"message {number}")
    assert len(log._said) <= KINDS_MAX
