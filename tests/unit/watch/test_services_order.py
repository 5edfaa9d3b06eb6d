"""The list of services is one state, however Consul orders it."""

from __future__ import annotations

from agentd.watch.queries import ServicesQuery


def test_the_order_of_tags_is_no_change() -> None:
    """Consul lists a service's tags in another order each time."""
    one, other = (ServicesQuery()._changes({"web": tags}, 1)[0] for tags in (["a", "b"], ["b", "a"]))

    assert one.digest == other.digest


def test_a_service_without_tags_is_kept() -> None:
    """Also where Consul says null, and a missing list is no service at all."""
    assert ServicesQuery()._changes({"web": None}, 1)[0].raw == {"web": []}
    assert ServicesQuery()._changes(None, 1)[0].raw == {}
