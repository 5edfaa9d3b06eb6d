"""Which session ticket key a real nginx encrypts with, as the handler finds out in handshakes of its own."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable

import pytest

from agentd.cli import main
from agentd.handler import NginxOptions, Verdict
from agentd.nginx.ticket_keys import EACH
from agentd.testing import HandlerHarness, event, key
from handlers.tls_ticket_keys import TicketKeys
from tests.integration.test_handlers_nginx import publish
from tests.servers.fleet import TICKET_EVENT, Node, main_job
from tests.servers.nginx import Nginx
from tests.servers.ports import free_port
from tests.servers.tls import Certificate
from tests.servers.waiting import wait_until

NewNginx = Callable[..., Nginx]
KEYS = [random.Random(seed).randbytes(size) for seed, size in enumerate((48, 80, 48))]


class Site:
    """One nginx, and the handler of its keys."""

    def __init__(self, nginx: Nginx, certificate: Certificate, **options: object) -> None:
        self.nginx = nginx
        self.certificate = certificate
        self.listener = f"{nginx.address}:{nginx.tls_port}"
        section = NginxOptions.model_validate(nginx.agentd_section)
        self.keys = HandlerHarness(TicketKeys, {"promote_after": 0} | options, nginx=section)
        self.keys.initial()
        publish(nginx.tree, self.keys)

    def server(self, listen: str, directives: str = "") -> str:
        """One more server with TLS."""
        pair = f"ssl_certificate {self.certificate.certificate}; ssl_certificate_key {self.certificate.key};"
        return (
            f"server {{ listen {listen}; {'' if 'ssl_certificate ' in directives else pair} {directives} }}\n"
        )

    def start(self, *servers: str, **sections: str) -> Site:
        """Start nginx, with more servers and directives."""
        self.nginx.configure(http="".join(servers), **sections)
        self.nginx.start()
        return self

    def rotate(self, secret: bytes, ltime: int = 1) -> None:
        """Commit a key that encrypts at once."""
        self.keys.handle(event("rotate", base64.b64encode(secret), ltime=ltime))
        publish(self.nginx.tree, self.keys)

    def line(self, text: str) -> str:
        """FILE:LINE of what is in nginx.conf."""
        lines = self.nginx.conf.read_text().splitlines()
        return f"{self.nginx.conf}:{next(at for at, line in enumerate(lines, 1) if text in line)}"

    def reasons(self) -> dict[str, str]:
        """Part -> reason of what is not in effect."""
        return {one.part: one.reason for one in self.keys.verify().drift}


@pytest.fixture
def new_site(new_nginx: NewNginx, certificate: Certificate) -> Callable[..., Site]:
    """Make sites whose nginx has the first files and is not started yet."""

    def make(workers: int = 1, **options: object) -> Site:
        return Site(new_nginx(workers=workers), certificate, **options)

    return make


NewSite = Callable[..., Site]


def accepts(port: int) -> bool:
    """Whether somebody listens there on loopback."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


# ---------------------------------------------------------------- the key encrypts


def test_the_initial_key_encrypts(new_site: NewSite) -> None:
    """From the first start on, without an event."""
    assert new_site().start().keys.verify() == Verdict()


@pytest.mark.parametrize("secret", KEYS[:2], ids=["48", "80"])
def test_a_rotation_is_seen(new_site: NewSite, secret: bytes) -> None:
    """Not in effect until nginx has loaded it; with two workers as with one."""
    site = new_site(workers=2).start()
    site.rotate(secret)

    before = site.reasons()
    site.nginx.reload()

    assert list(before) == [site.listener]
    assert before[site.listener].startswith("nginx encrypts with key 2 of the ring, not with the first")
    assert site.keys.verify() == Verdict()


def test_a_key_from_the_key_value_store_is_seen(new_site: NewSite) -> None:
    """It is a key as any other."""
    site = new_site().start()
    site.keys.handle(key("tls/ticket", base64.b64encode(KEYS[2])))
    publish(site.nginx.tree, site.keys)
    before = site.reasons()

    site.nginx.reload()

    assert (len(before), site.keys.verify()) == (1, Verdict())


def test_a_key_that_only_decrypts_is_not_expected_to_encrypt(new_site: NewSite) -> None:
    """Until it is promoted the former one is right."""
    site = new_site(promote_after="60s").start()
    site.rotate(KEYS[0])
    site.nginx.reload()
    staged = site.keys.verify()

    site.keys.advance(60)
    publish(site.nginx.tree, site.keys)
    promoted = site.reasons()

    assert staged == Verdict()
    assert list(promoted) == [site.listener]


@pytest.mark.parametrize(
    "listen, directives",
    [
        ("[::1]:PORT ssl", ""),
        ("[::]:PORT ssl", ""),
        ("PORT ssl", ""),
        ("*:PORT ssl http2 reuseport", ""),
        ("unix:DIR/tls.sock ssl", ""),
        ("127.0.0.1:PORT ssl proxy_protocol", ""),
        ("unix:DIR/tls.sock ssl proxy_protocol", ""),
        ("127.0.0.1:PORT", "ssl on;"),
        ("127.0.0.1:PORT ssl", "ssl_verify_client on; ssl_client_certificate CERT;"),
        ("127.0.0.1:PORT ssl", "ssl_verify_client optional_no_ca;"),
        ("127.0.0.1:PORT ssl", "ssl_protocols TLSv1; ssl_ciphers ALL:@SECLEVEL=0;"),
        ("127.0.0.1:PORT ssl", "ssl_ecdh_curve secp521r1;"),
        ("127.0.0.1:PORT ssl", "ssl_ciphers ECDHE-ECDSA-CHACHA20-POLY1305;"),
        ("127.0.0.1:PORT ssl", "ssl_session_cache shared:s:1m; ssl_session_timeout 1h;"),
        ("127.0.0.1:PORT ssl", "server_name a.example *.example;"),
        ("127.0.0.1:PORT ssl", "server_name _ ~^x;"),
    ],
)
def test_listeners_of_all_kinds_are_asked(
    new_site: NewSite, certificate: Certificate, listen: str, directives: str
) -> None:
    """Each shows the key, and where it is not loaded, that it is not."""
    site = new_site()
    where = listen.replace("PORT", str(free_port())).replace("DIR", str(site.nginx.directory))
    site.start(site.server(where, directives.replace("CERT", str(certificate.certificate))))
    right = site.keys.verify()

    site.rotate(KEYS[0])

    assert right == Verdict()
    assert len(site.reasons()) == 2


def test_a_server_with_an_rsa_certificate_and_few_ciphers_is_asked(new_site: NewSite) -> None:
    """Without forward secrecy, and with a key that OpenSSL's defaults find too short."""
    site = new_site()
    pair = [site.nginx.directory / "rsa.pem", site.nginx.directory / "rsa.key"]
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-subj", "/CN=rsa"]
    subprocess.run(
        [*argv, "-out", str(pair[0]), "-keyout", str(pair[1])], check=True, capture_output=True, timeout=60
    )
    own = f"ssl_certificate {pair[0]}; ssl_certificate_key {pair[1]}; ssl_ciphers AES128-SHA:@SECLEVEL=0;"

    site.start(site.server(f"127.0.0.1:{free_port()} ssl", own))

    assert site.keys.verify() == Verdict()


def test_a_default_server_that_rejects_handshakes_is_asked_by_another_name(new_site: NewSite) -> None:
    """The usual way to show no certificate to whoever knows no name."""
    site, port = new_site(), free_port()
    site.start(
        site.server(f"127.0.0.1:{port} ssl default_server", "ssl_reject_handshake on;"),
        site.server(f"127.0.0.1:{port} ssl", "server_name www.example;"),
    )

    right = site.keys.verify()
    site.rotate(KEYS[0])

    assert right == Verdict()
    assert f"127.0.0.1:{port} (www.example)" in site.reasons()


def test_a_wildcard_beside_a_listener_on_loopback(new_site: NewSite) -> None:
    """Each is asked, and only the one that is wrong is told."""
    site, port = new_site(), free_port()
    site.start(
        site.server(f"{port} ssl", "ssl_session_tickets off;"),
        site.server(f"127.0.0.1:{port} ssl"),
    )

    assert list(site.reasons()) == [f"*:{port}"]


# ---------------------------------------------------------------- it does not


def test_tickets_turned_off_are_told_with_the_line(new_site: NewSite) -> None:
    """And with how to say that it is meant so; mended, it is gone."""
    site = new_site().start(server="server_name www.example;\nssl_session_tickets off;")

    found = site.reasons()
    line = site.line("ssl_session_tickets off")
    site.nginx.configure()
    site.nginx.reload()

    assert found == {
        f"{site.listener} (www.example)": f"nginx sends no session ticket ({line}: ssl_session_tickets off);"
        f" remove that and reload nginx, or exclude it in `probe`: except {site.listener} www.example"
    }
    assert site.keys.verify() == Verdict()


def test_tickets_turned_off_for_one_name_are_told(new_site: NewSite) -> None:
    """The default server of the socket has them on."""
    site = new_site()
    off = "server_name off.example;\nssl_session_tickets off;"

    found = site.start(site.server(f"{site.listener} ssl", off)).reasons()

    # The server of the test's nginx comes after those that a test adds, and is no default server then.
    assert list(found) == [f"{site.listener} (off.example)"]


def test_tickets_turned_off_by_a_command_of_openssl(new_site: NewSite) -> None:
    """Another way to the same end."""
    site = new_site().start(server="ssl_conf_command Options -SessionTicket;")

    [reason] = site.reasons().values()

    assert f"({site.line('-SessionTicket')}: ssl_conf_command Options -SessionTicket)" in reason


def test_tickets_off_in_what_runs_but_not_in_the_files(new_site: NewSite) -> None:
    """The operator has mended the file, and not reloaded."""
    site = new_site().start(server="ssl_session_tickets off;")
    site.nginx.configure()

    [reason] = site.reasons().values()

    assert reason.startswith("nginx sends no session ticket, though its files turn them on; reload nginx")


@pytest.mark.parametrize("place", ["server", "http"])
def test_another_key_is_told_with_its_line(new_site: NewSite, place: str) -> None:
    """In the server, or before the include of the tree; neither key's name is in the message."""
    site = new_site()
    own = site.nginx.directory / "own.key"
    own.write_bytes(KEYS[1])
    directive = f"ssl_session_ticket_key {own};"
    site.nginx.configure(server=directive if place == "server" else "")
    if place == "http":
        text = site.nginx.conf.read_text()
        site.nginx.conf.write_text(text.replace("    include agentd", f"{directive}\n    include agentd"))
    site.nginx.start()

    [reason] = site.reasons().values()

    assert reason.startswith("nginx encrypts with another key (sha256:")
    assert site.line("own.key") in reason
    assert site.keys.store["ring"][0]["name"] not in reason
    assert KEYS[1][:16].hex() not in reason


def test_a_tree_that_is_not_included(new_site: NewSite) -> None:
    """Nginx makes a key of its own at every start then."""
    site = new_site()
    site.nginx.conf.write_text(site.nginx.conf.read_text().replace("include agentd/current/agentd.conf;", ""))
    site.nginx.start()

    [reason] = site.reasons().values()

    assert "http {} does not include the tree's keys" in reason


def test_a_listener_that_is_only_in_the_files(new_site: NewSite) -> None:
    """Nginx was not reloaded, or failed to."""
    site, port = new_site().start(), free_port()
    site.nginx.configure(http=site.server(f"127.0.0.1:{port} ssl"))

    found = site.reasons()

    assert list(found) == [f"127.0.0.1:{port}"]
    assert (
        f"nothing is listening there; {site.line(str(port))} says that it listens: reload"
        in found.popitem()[1]
    )


def test_a_worker_that_does_not_answer(new_site: NewSite) -> None:
    """Told within the time limit of one handshake."""
    site = new_site().start()
    [worker] = site.nginx.workers()
    os.kill(worker, signal.SIGSTOP)
    try:
        [reason] = site.reasons().values()
    finally:
        os.kill(worker, signal.SIGCONT)

    assert f"timed out after {EACH:g} s" in reason


# ---------------------------------------------------------------- it cannot be told


def test_only_tls_1_3_is_not_provable(new_site: NewSite) -> None:
    """That is said, and the others are asked all the same."""
    site, port = new_site(), free_port()
    site.start(site.server(f"127.0.0.1:{port} ssl", "server_name new.example; ssl_protocols TLSv1.3;"))

    assert site.keys.verify() == Verdict(
        unasked=f"not provable: 127.0.0.1:{port} (new.example):"
        " it offers only TLS 1.3, where tickets are encrypted"
    )


def test_only_tls_1_3_with_tickets_off_is_told_by_the_files(new_site: NewSite) -> None:
    """What no handshake shows is written there."""
    site = new_site().start(server="ssl_protocols TLSv1.3; ssl_session_tickets off;")

    [reason] = site.reasons().values()

    assert reason.startswith("by nginx's files it sends no session ticket (")
    assert site.line("ssl_session_tickets off") in reason


def test_a_curve_that_the_client_does_not_have_is_not_provable(new_site: NewSite) -> None:
    """A handshake that fails for such a reason says nothing about keys."""
    verdict = new_site().start(server="ssl_ecdh_curve brainpoolP256r1;").keys.verify()

    assert (verdict.drift, "it accepts none of this client's ciphers" in verdict.unasked) == ((), True)


def test_certificates_that_are_chosen_by_name(new_site: NewSite, certificate: Certificate) -> None:
    """Such a server has none for who names no server; asked by a name it answers."""
    site, port = new_site(), free_port()
    pair = {"cert": certificate.certificate.read_text(), "key": certificate.key.read_text()}
    maps = "".join(f'map $ssl_server_name ${name} {{ a.example "{text}"; }}\n' for name, text in pair.items())
    site.start(
        maps,
        site.server(f"127.0.0.1:{port} ssl", "ssl_certificate data:$cert; ssl_certificate_key data:$key;"),
    )

    unnamed = site.keys.verify()
    site.keys.restart({"promote_after": 0, "probe": [f"127.0.0.1:{port} a.example"]})
    named = site.keys.verify()
    site.rotate(KEYS[0])

    assert unnamed.drift == ()
    assert "it refuses who names no server (alert 80); name one in `probe`" in unnamed.unasked
    assert named == Verdict()
    assert list(site.reasons()) == [f"127.0.0.1:{port} (a.example)"]


def test_an_address_that_is_on_another_node_now(new_site: NewSite) -> None:
    """A shared address: whoever has it answers for another node's keys."""
    verdict = new_site(probe=["192.0.2.1:443"]).start().keys.verify()

    assert verdict == Verdict(
        unasked="not provable: 192.0.2.1:443: this node does not have the address 192.0.2.1 now"
    )


def test_nginx_that_does_not_run_is_not_asked(new_site: NewSite) -> None:
    """That is no drift: nobody encrypts with anything."""
    site = new_site()

    assert site.keys.verify() == Verdict(
        unasked=f"nobody was asked which ticket key encrypts: nothing answers at {site.listener} or on"
        f" {site.nginx.canary}, so nginx does not seem to run"
    )


def test_nobody_listens_with_tls(new_site: NewSite) -> None:
    """There is nothing to ask."""
    site = new_site()
    site.nginx.conf.write_text(site.nginx.conf.read_text().replace(f"{site.nginx.tls_port} ssl;", "81;"))

    assert site.keys.verify().unasked.endswith("nginx's files and `probe` name none")


def test_the_number_of_handshakes_is_limited(new_site: NewSite) -> None:
    """What was left out is counted."""
    site = new_site()
    sockets = [site.server(f"unix:{site.nginx.directory}/{number}.sock ssl") for number in range(66)]

    verdict = site.start(*sockets).keys.verify()

    assert verdict == Verdict(unasked="3 more listeners were not asked (at most 64)")


# ---------------------------------------------------------------- probe


def test_a_listener_that_is_off_on_purpose_is_excluded(new_site: NewSite) -> None:
    """By listener, or by listener and name; the others are asked."""
    site, port = new_site(), free_port()
    off = site.server(f"127.0.0.1:{port} ssl", "server_name off.example; ssl_session_tickets off;")
    site.start(off)
    before = site.reasons()

    for item in (f"except 127.0.0.1:{port}", f"except 127.0.0.1:{port} off.example"):
        site.keys.restart({"promote_after": 0, "probe": [item]})
        assert site.keys.verify() == Verdict()

    assert len(before) == 1


def test_only_what_is_named_is_asked(new_site: NewSite) -> None:
    """With the name that it is given."""
    site, port = new_site(), free_port()
    site.start(
        site.server(f"{port} ssl proxy_protocol"),
        site.server(f"{port} ssl", "server_name off.example; ssl_session_tickets off;"),
    )

    found = {}
    for item in (f"127.0.0.1:{port}", f"127.0.0.1:{port} on.example", f"127.0.0.1:{port} off.example"):
        site.keys.restart({"probe": [item]})
        found[item] = list(site.reasons())

    assert list(found.values()) == [[], [], [f"127.0.0.1:{port} (off.example)"]]


def test_a_wrong_port_in_probe_is_told(new_site: NewSite) -> None:
    """Nobody listens, or somebody who does not speak TLS."""
    site = new_site().start()
    nobody, plain = f"127.0.0.1:{free_port()}", f"127.0.0.1:{site.nginx.port}"
    site.keys.restart({"probe": [site.listener, nobody, plain]})

    found = site.reasons()

    assert found[nobody] == (
        "cannot connect: nothing is listening there; nothing in nginx's files listens there: correct `probe`"
    )
    assert "what answers there does not speak TLS" in found[plain]
    assert len(found) == 2


def test_changed_files_are_read_again(new_site: NewSite) -> None:
    """By the same handler object, in its next look."""
    site, port = new_site().start(), free_port()
    before = site.keys.verify()

    site.nginx.configure(http=site.server(f"127.0.0.1:{port} ssl", "ssl_session_tickets off;"))
    site.nginx.reload()
    wait_until(lambda: accepts(port), "the new listener")

    assert (before, list(site.reasons())) == (Verdict(), [f"127.0.0.1:{port}"])


# ---------------------------------------------------------------- the daemon, and `agentd check`


def test_a_rotation_that_does_not_take_effect_waits(new_node: Callable[..., Node], suffix: str) -> None:
    """It is not applied while tickets are off; once the operator has mended that, it is."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix)).start()
    good = node.nginx.conf.read_text()
    node.nginx.conf.write_text(good.replace("root /;", "ssl_session_tickets off; root /;"))
    event_id = node.fire(TICKET_EVENT + suffix, base64.b64encode(KEYS[0]))
    wait_until(lambda: (node.entry(event_id) or {}).get("reason"), "the reason to be told", pause=0.1)
    waiting = node.entry(event_id)

    node.nginx.conf.write_text(good)
    node.nginx.reload()

    assert waiting is not None
    assert waiting["outcome"] is None
    assert "not in effect: " in waiting["reason"]
    assert f"{node.nginx.conf}:" in waiting["reason"]
    assert node.outcome(event_id)["outcome"] == "applied"
    assert node.tickets()[0].read_bytes() == KEYS[0]


def test_what_cannot_be_proved_is_quoted_in_the_outcome(new_node: Callable[..., Node], suffix: str) -> None:
    """Applied, since nginx serves the generation; and it is said what was not asked."""
    node = new_node(handlers=main_job(promote_after="0s", suffix=suffix))
    node.nginx.configure(server="ssl_protocols TLSv1.3; if ($agentd_blocked) { return 403; }")
    node.start()

    entry = node.outcome(node.fire(TICKET_EVENT + suffix, base64.b64encode(KEYS[0])))

    assert entry["outcome"] == "applied"
    assert "not provable: " in entry["reason"]
    assert "it offers only TLS 1.3" in entry["reason"]


def checked(node: Node, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit status of `agentd check`, and what it found about ticket keys."""
    status = main(["check", "--json", "--config", str(node.configuration)])
    found = json.loads(capsys.readouterr().out)
    wanted = ("nginx tickets", "handler ticket-keys")
    return status, {one["subject"]: one for one in found if one["subject"] in wanted}


def test_check_says_the_same(
    new_node: Callable[..., Node], suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first event, of the files and of what runs; and a listener that is excluded is well."""
    node = new_node(handlers=main_job(suffix=suffix)).start()
    well = checked(node, capsys)
    text = node.nginx.conf.read_text()
    node.nginx.conf.write_text(text.replace("root /;", "ssl_session_tickets off; root /;"))
    unloaded = checked(node, capsys)
    node.nginx.reload()
    off = checked(node, capsys)
    handlers = main_job(suffix=suffix)
    listener = f"{node.nginx.address}:{node.nginx.tls_port}"
    handlers["ticket-keys"]["options"]["probe"] = [f"except {listener}"]
    node.configure(handlers)
    excluded = checked(node, capsys)

    assert [one["level"] for one in well[1].values()] == ["ok", "ok"]
    assert (unloaded[0], unloaded[1]["nginx tickets"]["level"]) == (1, "FAIL")
    assert [one["level"] for one in off[1].values()] == ["FAIL", "FAIL"]
    assert f"no session tickets on {listener}" in off[1]["nginx tickets"]["text"]
    assert off[1]["handler ticket-keys"]["text"].startswith(f"not in effect: {listener}: nginx sends no")
    assert all(f"{node.nginx.conf}:" in one["text"] for one in off[1].values())
    assert [one["level"] for one in excluded[1].values()] == ["ok", "warn"]


def test_check_only_warns_of_what_a_reload_cures(
    new_node: Callable[..., Node], suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An nginx that has run since before agentd came."""
    node = new_node(handlers=main_job(suffix=suffix)).start()
    text = node.nginx.conf.read_text()
    node.nginx.conf.write_text(text.replace("root /;", "ssl_session_tickets off; root /;"))
    node.nginx.reload()
    node.nginx.conf.write_text(text)

    found = checked(node, capsys)[1]

    assert [one["level"] for one in found.values()] == ["ok", "warn"]
    assert "reload nginx" in found["handler ticket-keys"]["text"]
