"""`deploy`: what a manifest brings about, what is refused, and what is left when something fails."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import signal
import stat
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from agentd.handler import Completed, PermanentError, TemporaryError
from agentd.limits import OUT_OF_MEMORY
from agentd.testing import key, keyprefix
from handlers.deploy.hooks import CommandFailedError
from handlers.deploy.swap import Swap
from tests.servers.equipment import require_root
from tests.unit.handlers.deploy.deploying import DeployStand, contents, file, member, place_of

NOBODY = 65534
NEW = (file("index.html", b"new"), file("js/app.js", b"code"))


@pytest.fixture
def stand(tmp_path: Path) -> DeployStand:
    """A node on which nothing is deployed yet."""
    return DeployStand(tmp_path)


@pytest.fixture
def old(stand: DeployStand) -> dict[str, bytes | str]:
    """What lies at `dest` before: files that an archive does not have."""
    stand.dest.mkdir()
    (stand.dest / "old.html").write_bytes(b"old")
    (stand.dest / "app.pid").write_bytes(b"17")
    return contents(stand.dest)


def is_clean(stand: DeployStand) -> bool:
    """Whether nothing lies beside `dest`, and nothing fetched was left."""
    return [path.name for path in stand.dest.parent.iterdir()] in ([], [stand.dest.name])


# ---------------------------------------------------------------------- what is deployed


def test_an_archive_becomes_dest(stand: DeployStand) -> None:
    """Content, modes and times are the archive's; `dest` itself has 0755."""
    stand.deploy(stand.fire(stand.archive(*NEW, file("run", b"#!", 0o755))))

    assert contents(stand.dest) == {"index.html": b"new", "js/app.js": b"code", "run": b"#!"}
    assert stat.S_IMODE((stand.dest / "run").stat().st_mode) == 0o755
    assert (stand.dest / "run").stat().st_mtime == 1_600_000_000
    assert stat.S_IMODE(stand.dest.stat().st_mode) == 0o755
    assert is_clean(stand)


def test_what_the_archive_does_not_have_is_gone(stand: DeployStand, old: dict[str, bytes | str]) -> None:
    """As with rsync --delete."""
    assert old

    stand.deploy(stand.fire(stand.archive(*NEW)))

    assert contents(stand.dest) == {"index.html": b"new", "js/app.js": b"code"}
    assert is_clean(stand)


def test_what_is_excluded_stays(stand: DeployStand, old: dict[str, bytes | str]) -> None:
    """Of `dest` it is kept, the same file, and of the archive it is not taken."""
    kept = (stand.dest / "app.pid").stat().st_ino

    stand.deploy(stand.fire(stand.archive(*NEW, file("x.pid", b"no")), excludes=["*.pid", "js"]))

    assert contents(stand.dest) == {"index.html": b"new", "app.pid": old["app.pid"]}
    assert (stand.dest / "app.pid").stat().st_ino == kept
    assert is_clean(stand)


def test_patterns_may_lie_in_the_archive(stand: DeployStand, old: dict[str, bytes | str]) -> None:
    """`exclude_from` names a file of the archive."""
    stand.deploy(stand.fire(stand.archive(*NEW, file("ex/list", b"*.pid\n/js\n")), exclude_from="ex/list"))

    assert contents(stand.dest) == {
        "index.html": b"new", "ex/list": b"*.pid\n/js\n", "app.pid": old["app.pid"],
    }  # fmt: skip


@pytest.mark.parametrize("link", ["list", "ex/list"])
def test_patterns_are_not_read_through_a_link(stand: DeployStand, link: str) -> None:
    """A link that leads out of the archive shows nothing of what lies there."""
    stand.configure(outside_links=True)
    archive = stand.archive(*NEW, member(link.split("/", maxsplit=1)[0], tarfile.SYMTYPE, "/etc"))

    with pytest.raises(PermanentError, match="no file"):
        stand.deploy(stand.fire(archive, exclude_from=link))


def test_mv_makes_a_dest_that_is_not_there(stand: DeployStand) -> None:
    """With the mode that the manifest says."""
    stand.deploy(stand.fire(stand.archive(*NEW), sync_strategy="mv", dest_mode=0o751))

    assert contents(stand.dest) == {"index.html": b"new", "js/app.js": b"code"}
    assert stat.S_IMODE(stand.dest.stat().st_mode) == 0o751


def test_mv_replaces_nothing(stand: DeployStand, old: dict[str, bytes | str]) -> None:
    """As with rename(2), `dest` must not be there, or be empty."""
    with pytest.raises(PermanentError, match="exists already"):
        stand.deploy(stand.fire(stand.archive(*NEW), sync_strategy="mv"))

    assert contents(stand.dest) == old


def test_mv_after_pre_has_made_room(stand: DeployStand, old: dict[str, bytes | str]) -> None:
    """`pre` runs before anything is looked at."""
    assert old
    commands = {"pre": [f"rm -r {stand.dest}"]}

    stand.deploy(stand.fire(stand.archive(*NEW), sync_strategy="mv", commands=commands))

    assert contents(stand.dest) == {"index.html": b"new", "js/app.js": b"code"}


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256", "sha512"])
def test_every_kind_of_checksum_is_verified(stand: DeployStand, name: str) -> None:
    """The right one is taken, a wrong one refused, before anything is unpacked."""
    archive = stand.archive(*NEW)
    right = hashlib.new(name, Path(archive["src"].removeprefix("file://")).read_bytes()).hexdigest()
    wrong = ("0" if right[0] != "0" else "1") + right[1:]

    with pytest.raises(PermanentError, match="was expected"):
        stand.deploy(stand.fire(archive, checksum=wrong))

    assert not stand.dest.exists()
    stand.deploy(stand.fire(archive, checksum=right.upper()))
    assert (stand.dest / "index.html").read_bytes() == b"new"


def test_a_key_may_name_the_manifest(stand: DeployStand) -> None:
    """White space around the reference does not matter, and a deleted key deploys nothing."""
    reference = stand.manifest(stand.archive(*NEW))

    stand.deploy(key("deploy/app", f" {reference}\n"))
    stand.deploy(key("deploy/app", None))

    assert (stand.dest / "index.html").read_bytes() == b"new"


# ---------------------------------------------------------------------- commands


def test_commands_run_in_order_around_the_change_of_dest(stand: DeployStand) -> None:
    """`pre` sees the old `dest`, `post` and `success` the new one; `failure` does not run."""
    out = stand.directory / "out"
    look = f"test -e {stand.dest} && echo new >>{out} || echo old >>{out}"
    commands = {
        "pre": [look, f"echo pre2 >>{out}"], "post": [look], "success": [f"echo success >>{out}"],
        "failure": [f"echo failure >>{out}"],
    }  # fmt: skip

    stand.deploy(stand.fire(stand.archive(*NEW), commands=commands))

    assert out.read_text().split() == ["old", "pre2", "new", "success"]


def test_success_reads_the_log(stand: DeployStand) -> None:
    """What the commands printed is in it."""
    out = stand.directory / "log"
    commands = {"pre": ["echo from-pre"], "post": ["echo from-post"], "success": [f"cat >{out}"]}

    stand.deploy(stand.fire(stand.archive(*NEW), commands=commands))

    assert "from-pre" in out.read_text()
    assert "from-post" in out.read_text()


def test_commands_have_a_clean_environment(stand: DeployStand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the options give, and the identity of the change."""
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "s3cret")
    monkeypatch.setenv("STAGE", "blue")
    stand.configure(env={"GIVEN": "yes"}, inherit_env=["STAGE", "MISSING"])
    out = stand.directory / "env"
    change = stand.fire(stand.archive(*NEW), commands={"post": [f"env >{out}"]})

    stand.deploy(change)

    seen = out.read_text().splitlines()
    assert {"GIVEN=yes", "STAGE=blue", "AGENTD_HANDLER=deploy", f"AGENTD_CHANGE_ID={change.id}"} <= set(seen)
    assert "s3cret" not in out.read_text()


def test_a_manifest_without_src_only_runs_commands(stand: DeployStand, old: dict[str, bytes | str]) -> None:
    """Each time that it is fired."""
    out = stand.directory / "out"
    change = stand.fire({"commands": {"pre": [f"echo pre >>{out}"], "post": [f"echo post >>{out}"]}})

    stand.deploy(change)
    stand.deploy(change)

    assert out.read_text().split() == ["pre", "post", "pre", "post"]
    assert contents(stand.dest) == old


@pytest.mark.parametrize("allowed", [False, ("echo other",)])
def test_commands_that_are_not_allowed_refuse_the_manifest(stand: DeployStand, allowed: object) -> None:
    """Before anything is fetched or run."""
    stand.configure(allow_commands=allowed)

    with pytest.raises(PermanentError, match="allow_commands"):
        stand.deploy(stand.fire(stand.archive(*NEW), commands={"failure": ["echo me"]}))

    assert stand.runs == []
    assert not stand.dest.exists()


def test_listed_commands_are_allowed(stand: DeployStand) -> None:
    """Line by line."""
    stand.configure(allow_commands=["echo me"])

    stand.deploy(stand.fire(stand.archive(*NEW), commands={"post": ["echo me"]}))

    assert (stand.dest / "index.html").exists()


# ---------------------------------------------------------------------- what fails half-way


def test_a_failing_post_puts_the_old_dest_back(stand: DeployStand, old: dict[str, bytes | str]) -> None:
    """`dest` is the very directory that it was, before `failure` runs and reads why."""
    inode, out = stand.dest.stat().st_ino, stand.directory / "out"
    commands = {"post": ["echo broken; exit 3"], "failure": [f"ls {stand.dest} >{out}; cat >>{out}"]}

    with pytest.raises(CommandFailedError, match="post command 1 of 1 ended with status 3: broken") as raised:
        stand.deploy(stand.fire(stand.archive(*NEW), commands=commands))

    assert raised.value.retry_after == math.inf
    assert contents(stand.dest) == old
    assert stand.dest.stat().st_ino == inode
    assert out.read_text().split()[:2] == ["app.pid", "old.html"]
    assert "status 3" in out.read_text()
    assert is_clean(stand)


def test_what_cannot_be_carried_is_named_with_its_dest(
    stand: DeployStand, old: dict[str, bytes | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name alone would not say where to look."""

    def refuse(name: str, *_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted", name)

    monkeypatch.setattr(os, "link", refuse)

    with pytest.raises(TemporaryError, match=rf"{stand.dest}: (app\.pid|old\.html): not permitted"):
        stand.deploy(stand.fire(stand.archive(*NEW), excludes=["*.pid"]))

    assert contents(stand.dest) == old


def test_the_signal_that_ended_a_command_is_named(stand: DeployStand) -> None:
    """Such as the kernel's, for want of memory."""
    out = stand.directory / "out"
    commands = {"post": ["kill -KILL $$"], "failure": [f"cat >{out}"]}

    with pytest.raises(CommandFailedError, match="post command 1 of 1 was ended by SIGKILL"):
        stand.deploy(stand.fire(stand.archive(*NEW), commands=commands))

    assert "was ended by SIGKILL" in out.read_text()


def test_a_failing_post_of_the_first_deploy_leaves_no_dest(stand: DeployStand) -> None:
    """There was none before."""
    with pytest.raises(CommandFailedError):
        stand.deploy(stand.fire(stand.archive(*NEW), commands={"post": ["false"]}))

    assert not stand.dest.exists()
    assert is_clean(stand)


def test_a_failing_pre_ends_the_deploy(stand: DeployStand, old: dict[str, bytes | str]) -> None:
    """Those behind it, and all that would follow, are not run."""
    out = stand.directory / "out"
    commands = {"pre": ["false", f"touch {out}"], "post": [f"touch {out}"]}

    with pytest.raises(CommandFailedError, match="pre command 1 of 2"):
        stand.deploy(stand.fire(stand.archive(*NEW), commands=commands))

    assert contents(stand.dest) == old
    assert not out.exists()


def test_a_command_that_hangs_is_ended(stand: DeployStand, old: dict[str, bytes | str]) -> None:
    """It has failed."""
    stand.configure(command_timeout="100ms")

    with pytest.raises(CommandFailedError, match="timed out after"):
        stand.deploy(stand.fire(stand.archive(*NEW), commands={"post": ["sleep 60"]}))

    assert contents(stand.dest) == old


def test_a_failing_success_command_undoes_nothing(stand: DeployStand) -> None:
    """It is an outcome all the same, and `failure` does not run."""
    out = stand.directory / "out"
    commands = {"success": ["false"], "failure": [f"touch {out}"]}

    with pytest.raises(CommandFailedError, match="the deploy is in place, but the success command 1 of 1"):
        stand.deploy(stand.fire(stand.archive(*NEW), commands=commands))

    assert (stand.dest / "index.html").read_bytes() == b"new"
    assert not out.exists()


def test_a_failing_failure_command_hides_nothing(stand: DeployStand) -> None:
    """The reason is the first one."""
    with pytest.raises(CommandFailedError, match="pre command 1"):
        stand.deploy(stand.fire(stand.archive(*NEW), commands={"pre": ["false"], "failure": ["exit 9"]}))


def test_failure_waits_for_the_last_attempt(stand: DeployStand) -> None:
    """What is tried again has not failed yet; what is not, has."""
    out = stand.directory / "out"
    commands = {"failure": [f"echo failed >>{out}"]}
    change = stand.fire(stand.archive(*NEW), commands=commands, dest=str(stand.dest / "deeper" / "app"))
    stand.configure(dests=[str(stand.dest / "deeper" / "app")])

    with pytest.raises(TemporaryError, match="there is no directory"):
        stand.deploy(change)
    early = out.exists()
    with pytest.raises(TemporaryError):
        stand.deploy(change, last_attempt=True)

    assert not early
    assert out.read_text() == "failed\n"


def test_a_refused_archive_leaves_dest_and_runs_failure(
    stand: DeployStand, old: dict[str, bytes | str]
) -> None:
    """Nothing of it comes near `dest`."""
    out = stand.directory / "out"
    archive = stand.archive(*NEW, file("../evil"))

    with pytest.raises(PermanentError, match=r"refused: '\.\./evil' contains `\.\.`"):
        stand.deploy(stand.fire(archive, commands={"failure": [f"touch {out}"]}))

    assert contents(stand.dest) == old
    assert out.exists()
    assert is_clean(stand)


@pytest.mark.parametrize(
    "fields,said",
    [
        ({"checksum": "0" * 63}, "checksum"),
        ({"dest": "app"}, "dest"),
        ({"dest": "/etc"}, "not listed"),
        ({"sync_strategy": "cp"}, "sync_strategy"),
        ({"commands": {"pre": "not a list"}}, "commands.pre"),
        ({"src": "https://elsewhere.example.com/"}, "sources.allow"),
    ],
)
def test_failure_runs_on_a_refused_manifest(stand: DeployStand, fields: dict[str, Any], said: str) -> None:
    """Whatever it is refused for; it reads why."""
    out = stand.directory / "out"
    given = stand.archive(*NEW) | fields
    given["commands"] = {"failure": [f"cat >{out}"], **fields.get("commands", {})}

    with pytest.raises(PermanentError, match=said):
        stand.deploy(stand.fire(given))

    assert said in out.read_text()
    assert not stand.dest.exists()


def test_failure_runs_if_the_parent_is_not_safe(stand: DeployStand) -> None:
    """Nothing else does, `pre` neither."""
    out = stand.directory / "out"
    stand.dest.parent.chmod(0o777)
    commands = {"pre": [f"echo pre >>{out}"], "failure": [f"cat >>{out}"]}

    with pytest.raises(PermanentError, match="parent_owner"):
        stand.deploy(stand.fire(stand.archive(*NEW), commands=commands))

    assert out.read_text().startswith("the deploy failed")
    assert not stand.dest.exists()


@pytest.mark.parametrize("allowed", [False, ["true"]])
def test_failure_does_not_run_where_it_is_not_allowed(stand: DeployStand, allowed: object) -> None:
    """A refusal is no way round `allow_commands`."""
    stand.configure(allow_commands=allowed)

    with pytest.raises(PermanentError):
        stand.deploy(stand.fire({"src": "x", "commands": {"failure": ["echo"], "pre": ["true"]}}))

    assert stand.runs == []


def test_failure_runs_if_only_another_command_is_not_allowed(stand: DeployStand) -> None:
    """It is listed itself."""
    stand.configure(allow_commands=["true"])

    with pytest.raises(PermanentError, match="allow_commands"):
        stand.deploy(stand.fire({"commands": {"failure": ["true"], "pre": ["false"]}}))

    assert stand.runs == [("/bin/sh", "-c", "true")]


@pytest.mark.parametrize("why", ["digest", "require_digest", "not allowed"])
def test_failure_does_not_run_from_an_unverified_manifest(stand: DeployStand, why: str) -> None:
    """It could be anybody's."""
    stand.configure(require_digest=why == "require_digest")
    reference = stand.manifest({"src": "x", "commands": {"failure": ["true"]}})
    if why == "digest":
        reference += f" sha256:{'0' * 64}"
    if why == "not allowed":
        reference = reference.replace("shelf", "srv")

    with pytest.raises(PermanentError):
        stand.deploy(stand.fire(reference))

    assert stand.runs == []


@pytest.mark.parametrize(
    "status,said", [(OUT_OF_MEMORY, "1024 MB of memory"), (-signal.SIGXCPU, "s of processor time")]
)
def test_an_archive_that_takes_too_much_is_refused(stand: DeployStand, status: int, said: str) -> None:
    """It would take as much the next time."""

    def run(*_: object, **__: object) -> Completed:
        return Completed(status, b"", 1.0)

    with pytest.raises(PermanentError, match=f"refused: unpacking it takes more than .*{said}"):
        stand.deploy(stand.fire(stand.archive(*NEW)), run=run)
    assert is_clean(stand)


def test_the_end_of_the_daemon_is_no_failure(stand: DeployStand, old: dict[str, bytes | str]) -> None:
    """A `post` command that it cuts short is undone; `failure` says nothing, since all is done again."""
    out = stand.directory / "out"
    commands = {"post": ["sleep 60"], "failure": [f"touch {out}"]}
    change = stand.fire(stand.archive(*NEW), commands=commands)
    seen = []

    def stopped(argv: list[str], **options: Any) -> Completed:  # noqa: ANN401 (Run's)
        if "sleep 60" in argv:
            seen.append(contents(stand.dest))
            threading.Timer(0.05, stand.stop.set).start()
        return stand.run(argv, **options)

    with pytest.raises(TemporaryError, match="agentd is stopping"):
        stand.deploy(change, run=stopped)

    assert seen == [{"index.html": b"new", "js/app.js": b"code"}]
    assert contents(stand.dest) == old
    assert not out.exists()


# ---------------------------------------------------------------------- what is allowed


def test_a_dest_that_is_not_listed_is_refused(stand: DeployStand) -> None:
    """Also one that is near a listed one."""
    for dest in ("/etc", f"{stand.dest}/sub", f"{stand.dest}2", str(stand.dest.parent)):
        with pytest.raises(PermanentError, match="not listed in the option `dests`"):
            stand.deploy(stand.fire(stand.archive(*NEW), dest=dest))
    assert stand.runs == []


@pytest.mark.parametrize("length", [248, 5000])
def test_a_name_that_cannot_be_is_refused(stand: DeployStand, length: int) -> None:
    """To try again would be useless; the directory beside `dest` has a longer name."""
    stand.configure(dests=[f"{stand.dest.parent}/*"])
    archive = stand.archive(*NEW)
    stand.deploy(stand.fire(archive, dest=str(stand.dest.with_name("x" * 247))))

    with pytest.raises(PermanentError, match="more than 247 bytes"):
        stand.deploy(stand.fire(archive, dest=str(stand.dest.with_name("x" * length))))


def test_a_star_stands_for_one_directory(stand: DeployStand) -> None:
    """Any name, one level, and no link to elsewhere."""
    parent = stand.dest.parent
    stand.configure(dests=[f"{parent}/*"])
    (parent / "link").symlink_to(stand.shelf)
    archive = stand.archive(*NEW)

    stand.deploy(stand.fire(archive, dest=f"{parent}/release-1/"))

    assert (parent / "release-1" / "index.html").exists()
    for name in ("a/b", "link", "*", ".agentd-x"):
        with pytest.raises(PermanentError, match="not listed in the option `dests`"):
            stand.deploy(stand.fire(archive, dest=f"{parent}/{name}"))


def test_a_listed_link_is_followed(stand: DeployStand) -> None:
    """The operator named it; the link stays one."""
    (stand.dest.parent / "real").mkdir()
    stand.dest.symlink_to("real")

    stand.deploy(stand.fire(stand.archive(*NEW)))

    assert stand.dest.is_symlink()
    assert (stand.dest.parent / "real" / "index.html").exists()


def test_a_parent_that_others_can_write_is_refused(stand: DeployStand) -> None:
    """At the deploy, and before it by `agentd check`; the option allows one owner."""
    require_root("give files away")
    os.chown(stand.dest.parent, NOBODY, -1)
    change = stand.fire(stand.archive(*NEW))

    with pytest.raises(PermanentError, match=r"written by its owner nobody, .*`parent_owner`"):
        stand.deploy(change)
    (drift,) = stand.handler.preflight(stand.context(dry_run=True))
    stand.configure(parent_owner="nobody")
    stand.deploy(change)

    assert drift.part == "dests"
    assert "parent_owner" in drift.reason
    assert stand.handler.preflight(stand.context(dry_run=True)) == []
    assert (stand.dest / "index.html").exists()


@pytest.mark.parametrize("owner,said", [("no-such-user", "no user"), (NOBODY, "")])
def test_a_parent_owner_is_a_user(stand: DeployStand, owner: object, said: str) -> None:
    """By name or by number."""
    stand.configure(parent_owner=owner, dests=["/srv/*", str(stand.dest)])

    drifts = stand.handler.preflight(stand.context(dry_run=True))

    assert all(said in drift.reason for drift in drifts)
    assert len(drifts) == (2 if said else 0)


def test_a_parent_that_is_not_there_yet_is_no_fault(stand: DeployStand) -> None:
    """`pre` may make it."""
    parent = stand.dest.parent / "later"
    stand.configure(dests=[f"{parent}/app"])

    stand.deploy(stand.fire(stand.archive(*NEW), dest=f"{parent}/app", commands={"pre": [f"mkdir {parent}"]}))

    assert stand.handler.preflight(stand.context(dry_run=True)) == []
    assert (parent / "app" / "index.html").exists()


def test_a_dest_that_is_a_file_is_refused(stand: DeployStand) -> None:
    """It is left alone."""
    stand.dest.write_bytes(b"mine")

    with pytest.raises(PermanentError, match="not a directory"):
        stand.deploy(stand.fire(stand.archive(*NEW)))

    assert stand.dest.read_bytes() == b"mine"


@pytest.mark.parametrize("dest", ["srv/app", "/srv/../etc", "/", "/srv/*/app", "/srv/a*", "/srv/app/"])
def test_dests_are_absolute_and_plain(dest: str, tmp_path: Path) -> None:
    """A mistake in the options is one at the start, not at the first deploy."""
    with pytest.raises(ValueError, match="dests"):
        DeployStand(tmp_path, dests=[dest])


def test_a_digest_can_be_asked_for(stand: DeployStand) -> None:
    """With `require_digest` a bare address is refused, and the wrong digest is anyway."""
    stand.configure(require_digest=True)
    reference = stand.manifest(stand.archive(*NEW))
    digest = hashlib.sha256((stand.shelf / "app.yml").read_bytes()).hexdigest()

    with pytest.raises(PermanentError, match="require_digest"):
        stand.deploy(stand.fire(reference))
    with pytest.raises(PermanentError, match="was expected"):
        stand.deploy(stand.fire(f"{reference} sha256:{'0' * 64}"))
    stand.deploy(stand.fire(f"{reference} sha256:{digest}"))

    assert (stand.dest / "index.html").exists()


@pytest.mark.parametrize("payload", [b"\xff\xfe", b" ", b"ftp://x/y", b"file:/etc/passwd"])
def test_a_payload_that_names_no_allowed_manifest_is_refused(stand: DeployStand, payload: bytes) -> None:
    """Whatever it is."""
    with pytest.raises(PermanentError):
        stand.deploy(key("deploy/app", payload))


def test_other_changes_are_refused(stand: DeployStand) -> None:
    """A prefix of keys names no manifest."""
    with pytest.raises(PermanentError, match="keyprefix"):
        stand.deploy(keyprefix("deploy/", {}))


def test_an_empty_manifest_is_told(stand: DeployStand) -> None:
    """It changes nothing, as with Stretcher."""
    (stand.shelf / "empty.yml").touch()

    stand.deploy(stand.fire(f"file:{stand.shelf}/empty.yml"))

    assert [line.event for line in stand.log] == ["deploy.empty_manifest"]
    assert stand.runs == []


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256"])
def test_a_checksum_that_can_be_forged_is_told(stand: DeployStand, name: str) -> None:
    """It is taken all the same."""
    archive = stand.archive(*NEW)
    data = (stand.shelf / "app.tar").read_bytes()

    stand.deploy(stand.fire(archive | {"checksum": hashlib.new(name, data).hexdigest()}))

    told = [line.fields["algorithm"] for line in stand.log if line.event == "deploy.weak_checksum"]
    assert told == ([] if name == "sha256" else [name])
    assert stand.store["gauges"]["deploy_weak_checksum"] == len(told)


def test_unknown_fields_are_told(stand: DeployStand) -> None:
    """And do no harm otherwise."""
    stand.deploy(stand.fire(stand.archive(*NEW), exclude=["*"], note="hello"))

    assert [line.fields["fields"] for line in stand.log if line.event == "deploy.unknown_fields"] == [
        ["exclude", "note"]
    ]


@pytest.mark.parametrize("limit", ["max_size", "max_unpacked", "max_entries"])
def test_limits_hold(stand: DeployStand, limit: str) -> None:
    """Of the archive, of what comes out of it, and of the number of its members."""
    stand.configure(**{limit: 1})

    with pytest.raises(PermanentError, match=limit):
        stand.deploy(stand.fire(stand.archive(file("a", b"x" * 5000), file("b"))))

    assert not stand.dest.exists()


# ---------------------------------------------------------------------- what is in place


def test_the_same_manifest_again_changes_nothing(stand: DeployStand) -> None:
    """No program is run a second time."""
    archive = stand.archive(*NEW)
    stand.deploy(stand.fire(archive))
    ran = len(stand.runs)

    stand.deploy(stand.fire(archive))

    assert len(stand.runs) == ran


def test_what_was_replaced_meanwhile_is_deployed_again(stand: DeployStand) -> None:
    """By hand, or by a rollback of what is remembered."""
    archive = stand.archive(*NEW)
    stand.deploy(stand.fire(archive))
    stand.dest.rename(stand.dest.with_name("moved"))

    stand.deploy(stand.fire(archive))

    assert (stand.dest / "index.html").exists()


def test_redeploy_deploys_what_is_in_place(stand: DeployStand) -> None:
    """For those who fire an event to have the commands run."""
    stand.configure(redeploy=True)
    archive = stand.archive(*NEW)
    stand.deploy(stand.fire(archive))
    (stand.dest / "index.html").write_bytes(b"changed by hand")

    stand.deploy(stand.fire(archive))

    assert (stand.dest / "index.html").read_bytes() == b"new"


def test_another_deploy_at_work_is_waited_for(stand: DeployStand) -> None:
    """Two never work on one `dest`."""
    change = stand.fire(stand.archive(*NEW))
    with (
        place_of(stand.dest) as place,
        Swap(place),
        pytest.raises(TemporaryError, match="another deploy is working on"),
    ):
        stand.deploy(change)

    stand.deploy(change)
    assert (stand.dest / "index.html").exists()


def test_a_dry_run_touches_nothing(stand: DeployStand, old: dict[str, bytes | str]) -> None:
    """The programs go through `run`, which only notes them in a dry run."""
    noted: list[tuple[str, ...]] = []

    def note(argv: tuple[str, ...], **_: object) -> object:
        noted.append(tuple(argv))
        return Completed(0, b"", 0.0)

    commands = {"pre": ["false"], "post": ["false"], "success": ["false"]}
    stand.deploy(stand.fire(stand.archive(*NEW), commands=commands), dry_run=True, run=note)

    assert contents(stand.dest) == old
    assert is_clean(stand)
    assert [argv[0] for argv in noted].count("/bin/sh") == 3
    assert stand.store == {}


# ---------------------------------------------------------------------- the start


def left_behind(stand: DeployStand) -> Path:
    """What a deploy leaves that was killed between the exchange and its end; returns the old tree."""
    swap = stand.dest.with_name(".agentd-app")
    old = swap / "tree"
    for directory in (old, stand.dest):
        directory.mkdir(parents=True)
    swap.chmod(0o700)
    record = {"old": old.stat().st_ino, "new": stand.dest.stat().st_ino}
    (swap / "flip").write_text(json.dumps(record))
    (old / "old.html").write_bytes(b"old")
    return old


def test_a_start_undoes_what_was_left_half_way(stand: DeployStand) -> None:
    """Before any change is handled."""
    left_behind(stand)

    stand.handler.initial(stand.context())

    assert contents(stand.dest) == {"old.html": b"old"}
    assert is_clean(stand)
    assert [line.event for line in stand.log] == ["deploy.undone"]


def test_a_start_leaves_a_deploy_that_still_runs(stand: DeployStand) -> None:
    """One of before a reload of the configuration, for example."""
    with place_of(stand.dest) as place, Swap(place):
        stand.handler.initial(stand.context())

    assert [line.event for line in stand.log] == ["deploy.busy"]


def test_a_start_says_what_it_cannot_undo(stand: DeployStand) -> None:
    """And goes on."""
    left_behind(stand)
    stand.dest.with_name(".agentd-app").chmod(0o777)

    stand.handler.initial(stand.context())

    assert [line.event for line in stand.log] == ["deploy.not_undone"]
    assert contents(stand.dest) == {}
