"""Work that a signal stops between two steps instead of breaking it off in the middle of one.

The work runs in a thread; the main thread waits for its end and for signals, and only sets an event. The
work looks at the event where stopping is safe, and each of its steps is bounded in time.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Final

from agentd.commands.inbox import Inbox, Message

_ENDING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_BY_SIGNAL: Final = 128


def run_stoppable(work: Callable[[Event], int]) -> int:
    """Run `work` with the event that tells it to stop; return its exit status.

    If a signal came and the work did not end well all the same, the status tells of the signal. Whatever the
    work raises is raised here.
    """
    stop, by_signal = Event(), 0
    with ThreadPoolExecutor(1, "work") as thread, Inbox(_ENDING) as inbox:
        future = thread.submit(work, stop)
        future.add_done_callback(lambda _: inbox.put(Message("ended")))
        while not future.done():
            message = inbox.get()
            if message.kind == "signal":
                by_signal = _BY_SIGNAL + message.number
                stop.set()
        status = future.result()
    return by_signal if status and by_signal else status
