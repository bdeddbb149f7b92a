"""The metrics of several replicas on one page."""

from prometheus_client.parser import text_string_to_metric_families

from marina.engines.gateway.metrics import Metrics
from marina.engines.ray.cluster_metrics import merged


def test_each_replica_keeps_its_series_and_a_family_is_told_once() -> None:
    pages = {}
    for replica, count in (("a", 2), ("b", 3)):
        metrics = Metrics()
        for _ in range(count):
            metrics.count_error(503)
            metrics.count_shadow("digits", "1.1", "same")
        pages[replica] = metrics.exposition().decode()

    page = merged(pages).decode()

    assert page.count("# TYPE marina_server_errors_total counter") == 1
    found = {
        (sample.name, sample.labels["replica"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert found["marina_server_errors_total", "a"] == 2
    assert found["marina_server_errors_total", "b"] == 3
    assert found["marina_shadow_requests_total", "b"] == 3


def test_without_replicas_the_page_is_empty() -> None:
    assert merged({}) == b""
