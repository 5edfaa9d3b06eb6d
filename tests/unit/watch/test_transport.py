"""Requests, and all that can go wrong with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agentd import http
from agentd.errors import ConsulError, ConsulLimited, ConsulRefused, ConsulTooLarge, ConsulUnavailable
from agentd.watch import transport
from agentd.watch.client import ConsulClient
from agentd.watch.credentials import Credentials
from agentd.watch.options import ANSWER_TIME, ConsulOptions
from tests.unit.watch.scripted import CUT, HANG, Half, ScriptedAgent, reply

NewClient = Callable[..., ConsulClient]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file that holds the token "sesame"."""
    file = tmp_path / "token"
    file.write_text("sesame\n")
    return file


def test_the_token_is_on_requests_of_py_consul_too(
    agent: ScriptedAgent, new_client: NewClient, token_file: Path
) -> None:
    """py-consul itself sends none with event.list."""
    agent.script = [reply([], X_Consul_Index="1")]
    new_client(token_file=token_file).event.list()
    assert agent.requests[0].headers["x-consul-token"] == "sesame"


def test_the_environment_has_no_say_in_the_token(
    agent: ScriptedAgent, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """py-consul lets CONSUL_HTTP_TOKEN override what was configured."""
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "stray")
    agent.script = [reply("leader")]
    new_client().leader()
    assert "x-consul-token" not in agent.requests[0].headers


def test_after_a_403_the_token_is_read_again(
    agent: ScriptedAgent, new_client: NewClient, token_file: Path
) -> None:
    """A token that was replaced in its file takes effect without a restart."""
    client = new_client(token_file=token_file)
    token_file.write_text("fresh")
    agent.script = [reply(b"ACL not found", 403), reply("leader")]
    assert client.leader() == "leader"
    assert [request.headers["x-consul-token"] for request in agent.requests] == ["sesame", "fresh"]


def test_a_403_with_the_same_token_is_final(
    agent: ScriptedAgent, new_client: NewClient, token_file: Path
) -> None:
    """Nothing is gained by asking again."""
    agent.script = [reply(b"Permission denied", 403)]
    with pytest.raises(ConsulRefused, match=r"Permission denied.*token_file"):
        new_client(token_file=token_file).leader()
    assert len(agent.requests) == 1


@pytest.mark.parametrize(
    "status,error",
    [
        (301, ConsulRefused),
        (400, ConsulRefused),
        (401, transport.ACLsDisabledError),
        (403, ConsulRefused),
        (413, ConsulRefused),
        (429, ConsulLimited),
        (500, ConsulUnavailable),
        (503, ConsulUnavailable),
    ],
)
def test_a_status_that_says_no_becomes_an_error(
    agent: ScriptedAgent, client: ConsulClient, status: int, error: type[ConsulError]
) -> None:
    """Unavailable is worth another attempt, refused is not."""
    agent.script = [reply(b"No cluster leader", status, X_Consul_Index="1", Location="/elsewhere")]
    with pytest.raises(error, match=f"{status}.*No cluster leader"):
        client.get("/v1/kv/a")
    assert len(agent.requests) == 1


@pytest.mark.parametrize(
    "status,body,headers,after",
    [
        (429, b"rate limit exceeded, try again later", {"Retry_After": "7"}, 7.0),
        (429, b"Your IP is issuing too many concurrent connections", {}, None),
        (429, b"", {"Retry_After": "Fri, 31 Dec 1999 23:59:59 GMT"}, None),
        (503, b"rate limit exceeded for operation that can only be performed by the leader", {}, None),
        (503, b"", {"Retry_After": "2"}, 2.0),
    ],
)
def test_a_limit_is_told_from_an_outage(
    agent: ScriptedAgent,
    client: ConsulClient,
    status: int,
    body: bytes,
    headers: dict[str, str],
    after: float | None,
) -> None:
    """Consul is there, and says when it wants to be asked again, or not."""
    agent.script = [reply(body, status, **headers)]

    with pytest.raises(ConsulLimited, match="it limits requests") as caught:
        client.get("/v1/kv/a")

    assert caught.value.retry_after == after


def test_a_command_waits_a_limit_out(agent: ScriptedAgent) -> None:
    """Nobody reads a log there; what lasts longer is an error."""
    agent.script = [reply(b"rate limit exceeded", 429), reply(b'"leader"')]
    with closing(ConsulClient(patient(agent, 30.0))) as client:
        assert client.leader() == "leader"

    agent.script = [reply(b"rate limit exceeded", 429, Retry_After="60")]
    with closing(ConsulClient(patient(agent, 30.0))) as client, pytest.raises(ConsulLimited):
        client.leader()


def patient(agent: ScriptedAgent, seconds: float) -> ConsulOptions:
    """Options as commands make them."""
    return ConsulOptions(address=agent.address).typed(token=None, verify=True, outwait=seconds)


def test_an_error_never_shows_the_token(
    agent: ScriptedAgent, new_client: NewClient, token_file: Path
) -> None:
    """Not even if Consul repeats it, or sends terminal escapes."""
    agent.script = [reply(b"token sesame \x1b[31m is unknown", 403)]
    with pytest.raises(ConsulRefused) as caught:
        new_client(token_file=token_file).leader()
    assert "sesame" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_an_answer_that_is_too_large_is_refused(
    agent: ScriptedAgent, client: ConsulClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded, whatever Consul sends."""
    monkeypatch.setattr(transport, "LARGEST", 1000)
    agent.script = [reply(b"x" * 1001)]
    with pytest.raises(ConsulTooLarge, match="more than 1000 bytes"):
        client.leader()


def test_an_answer_that_trickles_is_given_up(
    agent: ScriptedAgent, client: ConsulClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is bounded too, although every read on its own is quick."""
    monkeypatch.setattr(transport, "_BODY_TIME", -1.0)
    agent.script = [reply("leader")]
    with pytest.raises(ConsulUnavailable, match="did not finish"):
        client.leader()


@pytest.mark.parametrize(
    "answer", [CUT, Half(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), Half(b"what?\r\n\r\n")]
)
def test_an_answer_cut_off_is_unavailable_and_the_next_request_connects_anew(
    agent: ScriptedAgent, client: ConsulClient, answer: bytes
) -> None:
    """Half an answer is none, and a broken connection is not used again."""
    agent.script = [answer]
    with pytest.raises(ConsulUnavailable, match="broke"):
        client.leader()
    agent.script = [reply("leader")]
    assert client.leader() == "leader"


def test_requests_share_one_connection(agent: ScriptedAgent, client: ConsulClient) -> None:
    """An agent accepts 200 connections from one address, no more."""
    agent.script = [reply("leader")] * 3
    for _ in range(3):
        client.leader()
    assert agent.connections == 1


def test_a_connection_closed_while_idle_is_replaced_unnoticed(
    agent: ScriptedAgent, client: ConsulClient
) -> None:
    """An agent restarted between two requests costs nothing."""
    agent.script = [reply("leader"), reply("leader")]
    client.leader()
    agent._hang_up()
    assert client.leader() == "leader"
    assert agent.connections == 2


def test_a_silent_agent_is_given_up(agent: ScriptedAgent, client: ConsulClient) -> None:
    """The time limit of the answer counts."""
    agent.script = [HANG]
    with pytest.raises(ConsulUnavailable, match="did not answer in time"):
        client._transport.request("GET", "/v1/status/leader", patience=0.05)


@pytest.mark.parametrize("answer", [HANG, reply(b"rate limit exceeded", 429, Retry_After="1")])
def test_no_request_outlives_the_end_of_the_time(agent: ScriptedAgent, answer: bytes) -> None:
    """Though more would be left for an answer, or until a limit is over; afterwards none is sent."""
    agent.script = [answer] * 99
    with closing(ConsulClient(patient(agent, 30.0))) as client:
        began = time.monotonic()
        client.end_by(began + 0.2)
        with pytest.raises(ConsulUnavailable):
            client.leader()
        took = time.monotonic() - began
        asked = len(agent.requests)
        client.end_by(began)
        with pytest.raises(ConsulUnavailable, match="was not asked"):
            client.leader()
        assert client.time_left() == 0
    assert took < ANSWER_TIME / 2
    assert len(agent.requests) == asked


def test_closing_from_another_thread_abandons_a_poll(agent: ScriptedAgent, client: ConsulClient) -> None:
    """A poll of a minute must not hold up the end of the daemon."""
    agent.script = [HANG]
    errors: list[Exception] = []

    def poll() -> None:
        try:
            client.get("/v1/event/list", index=7)
        except ConsulUnavailable as error:
            errors.append(error)

    thread = threading.Thread(target=poll)
    thread.start()
    agent.asked.wait(60)
    client.close()
    thread.join(60)
    assert not thread.is_alive()
    assert "closed" in str(errors)


def test_a_closed_client_stays_closed(agent: ScriptedAgent, client: ConsulClient) -> None:
    """Closing twice is fine; a request afterwards is an error that says so."""
    agent.script = [reply("leader"), reply("leader")]
    client.leader()
    client.close()
    client.close()
    with pytest.raises(ConsulUnavailable, match="closed"):
        client.leader()


def test_no_agent_at_all_is_said_plainly(tmp_path: Path) -> None:
    """The text names the address and what to do."""
    client = ConsulClient(ConsulOptions(address=f"unix://{tmp_path}/none.sock"))
    with pytest.raises(ConsulUnavailable, match=r"no Consul agent listens on unix:.*none\.sock: start it"):
        client.leader()


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"two tokens", b"a\r\nX-Other: b", "schl\u00fcssel".encode(), b"x" * 5000]
)
def test_a_token_file_must_hold_one_token(tmp_path: Path, content: bytes) -> None:
    """Anything else would be sent as something it is not; the text shows none of it."""
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(
        ConsulRefused, match=r"^consul\.token_file: \S+ must hold one token and nothing else$"
    ):
        Credentials(ConsulOptions(token_file=file))


def test_a_token_from_the_environment_may_be_any_bytes() -> None:
    """Python has surrogates for those that are not UTF-8; they are refused like other text."""
    options = ConsulOptions().typed(token="\udcff", verify=True, names={"token_file": "CONSUL_HTTP_TOKEN"})
    with pytest.raises(ConsulRefused, match=r"^CONSUL_HTTP_TOKEN must hold one token and nothing else$"):
        Credentials(options)


def test_a_token_file_that_is_missing_is_said_plainly(tmp_path: Path) -> None:
    """The operator learns which file, and why."""
    with pytest.raises(ConsulRefused, match="none cannot be read: No such file"):
        ConsulClient(ConsulOptions(token_file=tmp_path / "none"))


def test_credentials_do_not_print_themselves(token_file: Path) -> None:
    """A token in a traceback or a log would be a leak."""
    assert "sesame" not in repr(Credentials(ConsulOptions(token_file=token_file)))


def test_tls_files_that_cannot_be_used_are_said_plainly(tmp_path: Path) -> None:
    """The operator learns which files."""
    with pytest.raises(
        ConsulRefused, match=r"TLS files cannot be used .*: correct consul\.ca_file: .*ca\.pem"
    ):
        ConsulClient(ConsulOptions(address="https://127.0.0.1:1", ca_file=tmp_path / "ca.pem"))


def test_the_certificate_is_checked_against_the_name_that_was_given() -> None:
    """An agent that is reached by address still has a certificate with its name."""
    options = ConsulOptions(address="https://127.0.0.1:1", tls_server_name="server.dc1.consul")
    address = transport._address(options)
    assert isinstance(address, http.TCPAddress)
    assert (address.host, address.server_name) == ("127.0.0.1", "server.dc1.consul")


def test_nonsense_for_py_consul_is_translated(agent: ScriptedAgent, client: ConsulClient) -> None:
    """No exception of a library leaves the client."""
    agent.script = [reply(b"<html>")]
    with pytest.raises(ConsulRefused, match="cannot be understood"):
        client.leader()


def test_what_py_consul_sends_is_sent(agent: ScriptedAgent, client: ConsulClient) -> None:
    """PUT, DELETE and raw reads go the same way."""
    agent.script = [reply(b"true"), reply(b"true"), reply(b"\xff\x00")]
    client.kv.put("a b", "value")
    client.kv.delete("a b")
    snapshot = client.http.get(lambda response: response.body, "/v1/snapshot", raw=True)
    assert [(one.method, one.target.partition("?")[0], one.body) for one in agent.requests[:2]] == [
        ("PUT", "/v1/kv/a%20b", b"value"),
        ("DELETE", "/v1/kv/a%20b", b""),
    ]
    assert snapshot == b"\xff\x00"
