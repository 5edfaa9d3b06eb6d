"""Where a command finds Consul: options, the environment, the configuration file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from agentd.cli import main, parse
from agentd.commands import parser, to_consul
from agentd.errors import ConfigError
from agentd.watch.options import ConsulOptions


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration with an agent and its credentials, and a handlers section that is wrong."""
    made = tmp_path / "agentd.yaml"
    made.write_text(
        "handlers: 7\n"
        "consul: {address: 'https://filed:1', token_file: /filed, ca_file: /filed.pem, wait: 7s}\n"
    )
    return made


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a configuration file."""
    monkeypatch.delenv("AGENTD_CONFIG", raising=False)
    missing = tmp_path / "missing.yaml"
    monkeypatch.setattr(parser, "DEFAULT", missing)
    monkeypatch.setattr("agentd.cli.DEFAULT", missing)


def found(*argv: str, **environment: str) -> ConsulOptions:
    """What `agentd nodes` with these options uses."""
    return to_consul.consul_options(parse(["nodes", "web", *argv])[1], environment)


def problems(*argv: str, **environment: str) -> str:
    """Why it refuses them."""
    with pytest.raises(ConfigError) as raised:
        found(*argv, **environment)
    return str(raised.value)


@pytest.mark.usefixtures("nowhere")
class TestWithoutFile:
    """On a machine that runs no agentd."""

    def test_the_local_agent_is_the_default(self) -> None:
        """As `consul` has it."""
        assert str(found().endpoint) == "http://127.0.0.1:8500"

    @pytest.mark.parametrize(
        "address,endpoint",
        [
            ("10.0.0.1:8500", "http://10.0.0.1:8500"),
            ("http://10.0.0.1:80", "http://10.0.0.1:80"),
            ("https://consul.example", "https://consul.example:8501"),
            ("unix:///run/consul.sock", "unix:///run/consul.sock"),
        ],
    )
    def test_the_environment_names_the_agent(self, address: str, endpoint: str) -> None:
        """In each of the forms that `consul` takes."""
        assert str(found(CONSUL_HTTP_ADDR=address).endpoint) == endpoint

    def test_an_option_takes_precedence_over_the_environment(self) -> None:
        """Field by field."""
        options = found("--http-addr", "typed:1", CONSUL_HTTP_ADDR="set:1", CONSUL_HTTP_TOKEN_FILE="/set")
        assert (str(options.endpoint), options.token_file) == ("http://typed:1", Path("/set"))

    @pytest.mark.parametrize(
        "value,scheme", [("true", "https"), ("1", "https"), ("false", "http"), ("", "http")]
    )
    def test_ssl_is_for_an_address_without_a_scheme(self, value: str, scheme: str) -> None:
        """As in `consul`."""
        options = found(CONSUL_HTTP_ADDR="a:1", CONSUL_HTTP_SSL=value)
        assert options.endpoint.scheme == scheme
        assert found(CONSUL_HTTP_ADDR="http://a:1", CONSUL_HTTP_SSL=value).endpoint.scheme == "http"

    def test_tls_settings(self) -> None:
        """All that `consul` has."""
        options = found(
            CONSUL_HTTP_ADDR="https://a",
            CONSUL_CACERT="/ca",
            CONSUL_CAPATH="/cas",
            CONSUL_CLIENT_CERT="/cert",
            CONSUL_CLIENT_KEY="/key",
            CONSUL_TLS_SERVER_NAME="server.dc1.consul",
            CONSUL_HTTP_SSL_VERIFY="false",
        )
        assert (options.ca_file, options.ca_path) == (Path("/ca"), Path("/cas"))
        assert (options.cert_file, options.key_file) == (Path("/cert"), Path("/key"))
        assert (options.tls_server_name, options.verify) == ("server.dc1.consul", False)

    def test_a_token_shows_nowhere(self) -> None:
        """It is used, and not printed."""
        options = found(CONSUL_HTTP_TOKEN="5ecret")
        assert options.token == "5ecret"
        assert "5ecret" not in f"{options!r} {options} {asdict(options)}"

    def test_a_token_file_takes_precedence_over_a_token(self) -> None:
        """As in `consul`."""
        options = found(CONSUL_HTTP_TOKEN="a", CONSUL_HTTP_TOKEN_FILE="/file")
        assert (options.token, options.token_file) == (None, Path("/file"))

    @pytest.mark.parametrize(
        "argv,environment,said",
        [
            (["--http-addr", "ftp://a"], {}, "--http-addr: an address such as"),
            (["--http-addr", "a:port"], {}, "--http-addr: an address such as"),
            ([], {"CONSUL_HTTP_ADDR": "a:99999"}, "CONSUL_HTTP_ADDR: an address such as"),
            ([], {"CONSUL_CACERT": "/ca"}, "the address must begin with https:// if you give CONSUL_CACERT"),
            (
                [],
                {"CONSUL_HTTP_ADDR": "http://u:p@a"},
                "CONSUL_HTTP_ADDR: the address must not contain a user name",
            ),
            (
                [],
                {"CONSUL_NAMESPACE": "team"},
                "CONSUL_NAMESPACE is set, and agentd does not support namespaces",
            ),
            ([], {"CONSUL_HTTP_AUTH": "u:p"}, "basic authentication"),
            (
                [],
                {"CONSUL_HTTP_SSL": "maybe", "CONSUL_HTTP_ADDR": "a"},
                "CONSUL_HTTP_SSL must be true or false",
            ),
            (["--ca-file", "/ca"], {}, "the address must begin with https:// if you give --ca-file"),
            (["--client-key", "/k"], {}, "--client-key needs --client-cert or CONSUL_CLIENT_CERT"),
            (["--config", "/no/such/file.yaml"], {}, "/no/such/file.yaml: cannot be read"),
        ],
    )
    def test_what_cannot_be_used_is_refused(
        self, argv: list[str], environment: dict[str, str], said: str
    ) -> None:
        """With the names that were used, and never a password."""
        told = problems(*argv, **environment)
        assert said in told
        assert "u:p" not in told


def test_fields_are_called_what_they_were_given_as(file: Path) -> None:
    """An error about one says what to correct: an option, a variable, or the configuration file."""
    options = found("--config", str(file), "--token-file", "/t", CONSUL_CLIENT_CERT="/cert")
    names = {name: options.name_of(name) for name in ("token_file", "cert_file", "address", "datacenter")}
    assert names == {
        "token_file": "--token-file",
        "cert_file": "CONSUL_CLIENT_CERT",
        "address": "consul.address",
        "datacenter": "--datacenter",
    }
    assert found("--config", str(file), CONSUL_HTTP_TOKEN="mine").name_of("token_file") == "CONSUL_HTTP_TOKEN"


@pytest.mark.usefixtures("nowhere")
def test_no_agent_there_says_which_variable_named_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever set it will not look into a configuration file."""
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "unix:///no/such/socket")
    assert main(["nodes", "web"]) == 1
    assert capsys.readouterr().err.endswith("start it, or correct CONSUL_HTTP_ADDR\n")


def test_the_file_fills_in_what_nobody_said(file: Path) -> None:
    """Its handlers are not looked at."""
    options = found("--config", str(file), CONSUL_HTTP_TOKEN="mine")
    assert (str(options.endpoint), options.wait, options.token) == ("https://filed:1", 7.0, "mine")


@pytest.mark.parametrize("address", ["other:1", "https://filed:2", "unix:///s"])
def test_credentials_in_the_file_are_for_its_own_agent(file: Path, address: str) -> None:
    """Another agent that was named gets neither the token nor the certificates."""
    options = found("--config", str(file), CONSUL_HTTP_ADDR=address)
    assert (options.token_file, options.ca_file) == (None, None)


def test_the_same_agent_named_again_keeps_its_credentials(file: Path) -> None:
    """However it is spelled."""
    options = found("--config", str(file), "--http-addr", "https://filed:1/")
    assert (options.token_file, options.ca_file) == (Path("/filed"), Path("/filed.pem"))


def test_errors_in_the_file_have_their_line(file: Path) -> None:
    """In the section that is needed."""
    file.write_text("handlers: 7\nconsul: {adress: x}\n")
    assert problems("--config", str(file)) == f"{file}:2: consul.adress: unknown field"


@pytest.mark.usefixtures("nowhere")
def test_a_default_file_that_was_asked_for_must_be_there() -> None:
    """`--config` with the very path of the default is a wish."""
    assert "cannot be read" in problems("--config", str(parser.DEFAULT))
