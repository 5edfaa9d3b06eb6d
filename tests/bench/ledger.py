"""A handler that knows which of the numbers that were fired it applied never, or twice, in bounded space."""

from __future__ import annotations

from agentd.handler import Change, Context, Event, Handler

PATH = "ledger/ledger.txt"


class Ledger(Handler):
    """Keeps the first number that has not come, those after it that have, and how many came again.

    It takes keys as well, and does nothing with them but fill the journal.
    """

    def handle(self, change: Change, context: Context) -> None:
        """Note the number."""
        if not isinstance(change, Event):
            return
        number, next_one = int(change.payload), context.store.get("next", 0)
        ahead, again = set(context.store.get("ahead", ())), context.store.get("again", 0)
        if number < next_one or number in ahead:
            again += 1
        ahead.add(number)
        while next_one in ahead:
            ahead.discard(next_one)
            next_one += 1
        context.store.update({"next": next_one, "ahead": sorted(ahead), "again": again})
        context.files.write(PATH, f"{next_one} {again} {len(ahead)}\n".encode())
