"""The one reading of an instance, for handlers and commands alike."""

from __future__ import annotations

from typing import Any

import pytest

from agentd.watch.changes import Instance, ServiceState


def read(*entries: dict[str, Any]) -> tuple[Instance, ...]:
    """The instances in one health answer."""
    return ServiceState("service:web", list(entries)).instances


def entry(service: dict[str, Any] | None = None, *checks: dict[str, str]) -> dict[str, Any]:
    """One element of a health answer."""
    return {
        "Node": {"Node": "n1", "Address": "192.0.2.99"},
        "Service": {"ID": "web1", "Address": "192.0.2.1", "Port": 80, **(service or {})},
        "Checks": list(checks),
    }


@pytest.mark.parametrize(
    "service, address, port",
    [
        ({}, "192.0.2.1", 80),
        ({"Address": ""}, "192.0.2.99", 80),
        ({"Address": None, "Port": None}, "192.0.2.99", 0),
        ({"Address": "web.example"}, "web.example", 80),
        ({"Port": 0, "Ports": [{"Port": 1}, {"Port": 2, "Default": True}]}, "192.0.2.1", 2),
        ({"Port": 0, "Ports": [{"Port": 1}]}, "192.0.2.1", 0),
        ({"Port": 0, "Ports": [{"Port": 1, "Default": "yes"}]}, "192.0.2.1", 0),
        ({"Port": 0, "Ports": ["x", {"Port": True}, {"Port": 3, "Default": True}]}, "192.0.2.1", 3),
        ({"Port": 7, "Ports": [{"Port": 2, "Default": True}]}, "192.0.2.1", 7),
    ],
)
def test_address_and_port_are_the_services_own_where_it_has_any(
    service: dict[str, Any], address: str, port: int
) -> None:
    """Otherwise the node's address, and the default one of several ports."""
    (found,) = read(entry(service))

    assert (found.address, found.port) == (address, port)


HTTP, GRPC = {"Name": "http", "Port": 8080, "Default": True}, {"Name": "grpc", "Port": 9090}


@pytest.mark.parametrize(
    "service, name, port",
    [
        ({}, "", 80),
        ({"Port": 0, "Ports": [HTTP, GRPC]}, "", 8080),
        ({"Port": 0, "Ports": [HTTP, GRPC]}, "grpc", 9090),
        ({"Port": 0, "Ports": [GRPC, HTTP]}, "http", 8080),
        ({"Port": 0, "Ports": [GRPC]}, "grpc", 9090),
        ({"Port": 0, "Ports": [GRPC, HTTP]}, "admin", "no port named 'admin': its ports are grpc, http"),
        ({"Port": 0, "Ports": [GRPC, {"Name": "odd", "Port": "80"}]}, "odd", "no port named 'odd'"),
        ({}, "http", "no port named 'http': its ports have no names"),
        ({"Port": 0, "Ports": [GRPC]}, "", "none of its ports is the default: choose one of grpc"),
        ({"Port": 0}, "", "it has no port"),
    ],
)
def test_a_port_is_chosen_by_its_name(service: dict[str, Any], name: str, port: int | str) -> None:
    """Or it is the default one; what there is instead is named."""
    (found,) = read(entry(service))

    if isinstance(port, int):
        assert found.port_named(name) == port
    else:
        with pytest.raises(ValueError, match=port):
            found.port_named(name)


def test_an_instance_without_any_address_can_be_read() -> None:
    """It must not hide the others."""
    raw = entry({"Address": ""})
    del raw["Node"]["Address"]

    assert [one.address for one in read(raw)] == [""]


@pytest.mark.parametrize(
    "checks, status",
    [
        ([], "passing"),
        ([("a", "passing"), ("b", "warning")], "warning"),
        ([("a", "warning"), ("b", "critical"), ("c", "passing")], "critical"),
        ([("a", "passing"), ("b", "newly invented")], "critical"),
        ([("_node_maintenance", "critical")], "maintenance"),
        ([("_service_maintenance:web1", "critical"), ("a", "passing")], "maintenance"),
    ],
)
def test_status_is_that_of_the_worst_check(checks: list[tuple[str, str]], status: str) -> None:
    """Maintenance is worse than critical, and a status that nobody knows is critical."""
    (found,) = read(entry(None, *({"CheckID": name, "Status": is_} for name, is_ in checks)))

    assert found.status == status


@pytest.mark.parametrize("status, weight", [("passing", 7), ("warning", 2), ("critical", 7)])
def test_weight_is_the_one_for_the_status(status: str, weight: int) -> None:
    """Consul has one for passing and one for warning."""
    found = read(entry({"Weights": {"Passing": 7, "Warning": 2}}, {"CheckID": "a", "Status": status}))

    assert found[0].weight == weight


def test_tags_and_meta_are_sorted() -> None:
    """Their order means nothing, so that another order is no change."""
    (found,) = read(entry({"Tags": ["b", "a"], "Meta": {"y": "2", "x": "1"}}))

    assert (found.tags, found.meta) == (("a", "b"), (("x", "1"), ("y", "2")))


def test_instances_are_sorted_by_number() -> None:
    """IPv4, then IPv6, then names; then by port."""
    given = [("web.example", 1), ("2001:db8::1", 1), ("10.0.0.10", 1), ("10.0.0.9", 2), ("10.0.0.9", 1)]

    found = read(*(entry({"Address": address, "Port": port}) for address, port in given))

    assert [(one.address, one.port) for one in found] == list(reversed(given))
