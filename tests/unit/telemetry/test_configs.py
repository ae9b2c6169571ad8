"""What the metrics page tells of configurations that are replaced."""

from __future__ import annotations

from epp.telemetry.configs import config_hash
from epp.telemetry.metrics import Metrics
from tests.unit.telemetry.pages import page


def test_loads_and_refusals() -> None:
    metrics = Metrics()
    told = metrics.configs
    told.config_loaded("a", 1, "one", 1e9)
    told.config_loaded("b", 1, "one", 1e9)
    read = page(metrics)
    assert read.values("epp_config_hash") == [config_hash("one")] * 2
    assert read.value("epp_config_reloads_total", name="a", result="success") == 0
    assert read.value("epp_config_reloads_total", name="a", result="failure") == 0
    told.config_refused("a")
    told.config_refused("a")
    read = page(metrics)
    assert read.value("epp_config_last_reload_successful", name="a") == 0
    assert read.value("epp_config_last_reload_successful", name="b") == 1
    assert read.value("epp_config_reloads_total", name="a", result="failure") == 2
    told.config_loaded("a", 2, "two", 1e9 + 5)
    read = page(metrics)
    assert read.value("epp_config_last_reload_successful", name="a") == 1
    assert read.value("epp_config_generation", name="a") == 2
    assert read.value("epp_config_generation", name="b") == 1
    assert read.value("epp_config_last_reload_success_timestamp_seconds", name="a") == 1e9 + 5
    assert read.value("epp_config_reloads_total", name="a", result="success") == 1
    assert read.value("epp_config_hash", name="a") == config_hash("two") != config_hash("one")


def test_a_pool_that_went_is_shown_no_more() -> None:
    metrics = Metrics()
    metrics.configs.config_loaded("a", 1, "one", 1e9)
    metrics.configs.config_gone("a")
    metrics.configs.config_refused("a")
    assert "epp_config_generation" not in page(metrics).families


def test_the_hash_survives_a_float() -> None:
    assert all(float(config_hash(str(i))) == config_hash(str(i)) < 2**48 for i in range(1000))
