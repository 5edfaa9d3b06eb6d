"""Where the agent is."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from agentd.watch.options import ConsulOptions, parse_address


@pytest.mark.parametrize(
    "address,printed",
    [
        ("127.0.0.1:8500", "http://127.0.0.1:8500"),
        ("consul.local", "http://consul.local:8500"),
        ("[::1]:85", "http://[::1]:85"),
        ("https://consul.local", "https://consul.local:8501"),
        ("http://127.0.0.1:8500/", "http://127.0.0.1:8500"),
        ("unix:///run/consul.sock", "unix:///run/consul.sock"),
    ],
)
def test_an_address_is_taken_apart(address: str, printed: str) -> None:
    """Host and port, a URL and a unix socket are all understood."""
    assert str(parse_address(address)) == printed


@pytest.mark.parametrize(
    "address",
    [
        "",
        "http://",
        "ftp://x",
        "unix://relative",
        "http://x/ui",
        "x:99999",
        "x:port",
        "http://x?a=b",
        "\u0663s",
        "https://\udcff",
    ],
)
def test_anything_else_is_refused(address: str) -> None:
    """What is no address is a problem of the file, not of the first request."""
    with pytest.raises(ValidationError):
        TypeAdapter(ConsulOptions).validate_python({"address": address})


def test_a_password_in_the_address_is_refused_without_a_word_of_it() -> None:
    """Secrets belong into files."""
    with pytest.raises(ValueError, match="must not contain a user name or password") as caught:
        parse_address("http://me:sesame@consul:8500")
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "fields,complaint",
    [
        ({"ca_file": Path("ca.pem")}, "https://"),
        ({"address": "https://x", "key_file": Path("key.pem")}, "cert_file"),
        ({"wait": "61s"}, "60"),
        ({"wait": 0}, "greater than 0"),
        ({"token": "secret"}, "Unexpected keyword argument"),
    ],
)
def test_options_that_contradict_each_other_are_refused(fields: dict[str, object], complaint: str) -> None:
    """The message says which."""
    with pytest.raises(ValidationError, match=complaint):
        TypeAdapter(ConsulOptions).validate_python(fields)


def test_patience_outlasts_consuls_own_jitter() -> None:
    """A blocking query of 48 s may take 3 s more, and 10 s to answer."""
    assert ConsulOptions().patience(48.0) == 61.0


def test_an_impatient_client_waits_less_and_keeps_the_rest() -> None:
    """Whoever has something else to do; also its token, and a shorter limit, stay as they are."""
    patient = ConsulOptions(address="consul:85", connect_timeout=1.0).typed(token="t", verify=False)

    options = patient.impatient(1.5)

    assert options.patience(0.0) == 1.5
    assert (options.connect_timeout, ConsulOptions().impatient(1.5).connect_timeout) == (1.0, 1.5)
    assert (options.address, options.token, options.verify) == ("consul:85", "t", False)
    assert patient.patience(0.0) == 10.0
