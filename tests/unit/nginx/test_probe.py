"""The option `probe`: its grammar, and what it selects."""

from __future__ import annotations

import pytest

from agentd.nginx.probe import Probe
from agentd.nginx.tls_listeners import Question
from agentd.wire import TCPAddress

WILDCARD = Question(
    "*:443",
    ("www.example", "example"),
    "nginx.conf:3",
    TCPAddress("127.0.0.2", 443),
    "www.example",
    proxy_protocol=True,
)
STATIC = Question(
    "*:443", ("static.example",), "nginx.conf:3", TCPAddress("127.0.0.2", 443), "static.example"
)
LOCAL = Question("127.0.0.1:8443", (), "nginx.conf:9", TCPAddress("127.0.0.1", 8443))
FOUND = [WILDCARD, STATIC, LOCAL]


@pytest.mark.parametrize(
    "items, selected",
    [
        (None, [WILDCARD, STATIC, LOCAL]),
        ([], []),
        (["except *:443"], [LOCAL]),
        (["except *:443 static.example"], [WILDCARD, LOCAL]),
        (["except 0.0.0.0:443 example"], [STATIC, LOCAL]),
        (["except *:443", "except 127.0.0.1:8443"], []),
        (["127.0.0.1:8443"], [LOCAL]),
        (["*:443", "*:443 static.example"], [WILDCARD, STATIC]),
        (["127.0.0.1:8443", "except 127.0.0.1:8443"], []),
    ],
)
def test_items_select(items: list[str] | None, selected: list[Question]) -> None:
    """All without the option, those named, and never those excluded."""
    found = Probe(items).select(FOUND)

    assert [(one.listener, one.sni) for one in found] == [(one.listener, one.sni) for one in selected]


def test_an_address_of_a_wildcard_has_its_facts() -> None:
    """Where it is written, and that it expects the PROXY protocol; the name is the one given."""
    [found] = Probe(["10.0.0.1:443 shop.example"]).select(FOUND)

    assert (found.listener, found.server, found.sni) == ("10.0.0.1:443", "shop.example", "shop.example")
    assert (found.address, found.proxy_protocol) == (TCPAddress("10.0.0.1", 443), True)
    assert found.place == "nginx.conf:3"


def test_what_the_files_do_not_have_is_asked_all_the_same() -> None:
    """The answer will tell."""
    [found] = Probe(["127.0.0.1:9999"]).select(FOUND)

    assert (found.address, found.place) == (TCPAddress("127.0.0.1", 9999), "")


@pytest.mark.parametrize(
    "item, told",
    [
        ("", "is not of the form"),
        ("except", "is not of the form"),
        ("*:443 a b", "is not of the form"),
        ("*:443 *.example", "is not a name that a client can ask for"),
        ("*:443 10.0.0.1", "is not a name that a client can ask for"),
        ("not *:443", "has no port"),
        ("https://www.example", "is not a port"),
    ],
)
def test_other_items_are_refused(item: str, told: str) -> None:
    """With what is wrong in them."""
    with pytest.raises(ValueError, match=told):
        Probe([item])
