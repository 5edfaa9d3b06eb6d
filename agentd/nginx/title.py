"""How nginx was started: the options in the title of a master process.

nginx overwrites its own command line with "nginx: master process" and its arguments, joined by spaces
(ngx_setproctitle), so where an argument ends has to be inferred. The title may be cut off where the room for
it ends. Owns only this reading.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MASTER: Final = "nginx: master process"
_OPTION: Final = re.compile(r"-[?hvVtTqspceg]")
_WITH_VALUE: Final = "spceg"


@dataclass(frozen=True, slots=True)
class Invocation:
    """The options of nginx's command line that matter to what it reads; "" for one that was not given.

    Attributes:
        prefix: of -p, the directory that relative paths begin at.
        conf: of -c, the main configuration file.
        directives: of -g, global directives such as "daemon off;".
        error_log: of -e.
    """

    prefix: str = ""
    conf: str = ""
    directives: str = ""
    error_log: str = ""

    @property
    def arguments(self) -> list[str]:
        """Those that another run of nginx needs to read a configuration in the same way: all but -c."""
        given = (("-p", self.prefix), ("-g", self.directives), ("-e", self.error_log))
        return [word for option, value in given if value for word in (option, value)]


def parse(title: str) -> Invocation:
    """The options in a master's title.

    A value ends where something that looks like an option follows; that of -g only after a semicolon, since
    directives may contain a word such as "-e". A -g that does not end in one was cut off and is left out: no
    nginx would have started with it.
    """
    words = title.removeprefix(MASTER).strip("\0").split(" ")[1:]
    values: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if not _OPTION.match(word):
            continue
        # As in `-tqc FILE`, the letters before are options of their own.
        at = next((index for index, letter in enumerate(word[1:], 1) if letter in _WITH_VALUE), 0)
        if not at:
            continue
        name, parts = word[at], [word[at + 1 :]] if word[at + 1 :] else words[:1]
        if not word[at + 1 :]:
            del words[:1]
        while words and not (_OPTION.match(words[0]) and (name != "g" or parts[-1].endswith(";"))):
            parts.append(words.pop(0))
        values[name] = " ".join(parts).strip()
    directives = values.get("g", "")
    return Invocation(
        prefix=values.get("p", ""),
        conf=values.get("c", ""),
        directives=directives if directives.endswith(";") else "",
        error_log=values.get("e", ""),
    )
