"""nginx's processes: which serve the tree, which cannot follow a reload, and which are somebody else's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from agentd.commands.checks.finding import Finding
from agentd.config.load import Loaded
from agentd.errors import HandlerError
from agentd.http import ConnectError
from agentd.nginx.canary import Answer, Questions, unlinked
from agentd.nginx.processes import Processes, Running
from agentd.options import NginxOptions

_PATIENCE: Final = 1.0
_ROUND: Final = 0.1
_QUESTIONS: Final = 64


def findings(loaded: Loaded, nginx: NginxOptions) -> Iterator[Finding]:
    """Who runs, who accepts connections, and whether each of them answers the canary."""
    try:
        running, answers, deaf = _ask(nginx)
    except HandlerError as error:
        yield Finding("FAIL", "nginx processes", str(error), "run sudo agentd check")
        return
    if not running.masters and not running.workers:
        text = f"no master of nginx runs with {nginx.conf}"
        if answers:
            pids = ", ".join(map(str, sorted(answers)))
            text += f"; what answers on {nginx.canary} is pid {pids}, which agentd cannot reload"
        cure = "run nginx with its master process (`master_process on`)" if answers else "start nginx"
        yield Finding("warn", "nginx processes", text, cure)
    else:
        listed = ", ".join(f"master {pid}" for pid in sorted(running.masters)) or "no master"
        text = f"{listed}, {len(running.workers)} workers, {len(running.draining)} draining"
        yield Finding("ok", "nginx processes", text)
        yield from _cannot_follow(running, nginx)
        yield _canary(running, answers, deaf, loaded, nginx)
    for other in running.others:
        text = f"another one runs and is left alone: pid {other.pid} ({other.title})"
        yield Finding("ok", "nginx others", text)


def _cannot_follow(running: Running, nginx: NginxOptions) -> Iterator[Finding]:
    """Processes that a reload does not reach."""
    orphans = sorted(pid for pid, master in running.workers.items() if not master)
    if orphans:
        pids = " ".join(map(str, orphans))
        text = f"workers whose master is gone serve what they read long ago: {pids}"
        cure = f"`kill -QUIT {pids}; rm -f {nginx.canary}`, then start nginx"
        yield Finding("FAIL", "nginx orphans", text, cure)
    for old, new in running.upgrading.items():
        text = f"two masters: {old} is being upgraded to {new}, and cannot reload"
        cure = f"finish it with `kill -QUIT {old}`, or take it back with `kill -QUIT {new}`"
        yield Finding("warn", "nginx upgrade", text, cure)
    free = sorted(running.masters.keys() - running.upgrading.keys() - {*running.upgrading.values()})
    if len(free) > 1:
        text = f"several masters read {nginx.conf}: {', '.join(map(str, free))}"
        cure = "stop all but one; two nginx need a configuration, a tree and an agentd each"
        yield Finding("FAIL", "nginx masters", text, cure)
    for pid in sorted(running.stopped):
        yield Finding("warn", "nginx stopped", f"pid {pid} is stopped by a signal", f"kill -CONT {pid}")


def _canary(
    running: Running, answers: dict[int, Answer], deaf: str, loaded: Loaded, nginx: NginxOptions
) -> Finding:
    """Whether each worker that accepts connections answers."""
    silent = sorted(running.workers.keys() - answers.keys())
    if not deaf and not silent:
        served = ", ".join(sorted({answer.generation for answer in answers.values()}))
        text = f"all {len(running.workers)} workers answer: generation {served}"
        return Finding("ok", "nginx canary", text)
    if not deaf:
        text = f"workers that do not answer: {', '.join(map(str, silent))}"
        cure = "if it lasts, end one that hangs with `kill -KILL PID`"
        return Finding("warn", "nginx canary", text, cure)
    try:
        gone = unlinked(nginx.canary)
    except OSError:
        gone = False
    if gone:
        text = f"the file of {nginx.canary} was removed, and nginx listens where nobody can connect"
        return Finding("FAIL", "nginx canary", text, "restart nginx: a reload does not make it again")
    text = f"nothing answers on {nginx.canary} ({deaf}), so no reload can be proved"
    if not (loaded.config.tree.path / "current").exists():
        return Finding("warn", "nginx canary", text, "start agentd, which reloads nginx")
    return Finding("warn", "nginx canary", text, "include the tree, and run `systemctl reload nginx`")


def _ask(nginx: NginxOptions) -> tuple[Running, dict[int, Answer], str]:
    """What runs, what each worker answers, and why nobody can be asked, or ""."""
    processes = Processes(nginx)
    answers: dict[int, Answer] = {}
    end = time.monotonic() + _PATIENCE
    with Questions(nginx.canary) as questions:
        while True:
            try:
                answers |= {answer.pid: answer for answer in questions.ask(_QUESTIONS, _ROUND)}
            except ConnectError as error:
                return processes.look(), {}, str(error)
            running = processes.look(answers)
            # Of workers without a master it is not known how many there are.
            known = not running.suspects and all(running.workers.values())
            if (known and not running.workers.keys() - answers.keys()) or time.monotonic() >= end:
                return running, answers, ""
