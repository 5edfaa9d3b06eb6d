"""HTML in which everything is escaped that is not `HTML` already: elements, tables, and text of outsiders."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from agentd.printable import printable
from agentd.times import span, timestamp
from agentd.trouble import BAD, DOUBTFUL

_VOID: Final = frozenset({"link", "meta"})
_LONGEST: Final = 1000  # characters of one text
_SYMBOLS: Final = {"good": "✓", "doubtful": "!", "bad": "✕"}


class HTML(str):
    """Text that is markup already."""

    __slots__ = ()


Content = HTML | str | int | None


def element(name: str, /, *content: Content, **attributes: str | None) -> HTML:
    """An element; text is escaped, an attribute of None is left out, `_` in its name stands for `-`."""
    given = {key.strip("_").replace("_", "-"): value for key, value in attributes.items()}
    inside = "".join(f' {key}="{_escaped(value)}"' for key, value in given.items() if value is not None)
    if name in _VOID:
        return HTML(f"<{name}{inside}>")
    return HTML(f"<{name}{inside}>{joined(content)}</{name}>")


def joined(parts: Iterable[Content]) -> HTML:
    """One after another."""
    return HTML("".join(one if isinstance(one, HTML) else _escaped(one) for one in parts if one is not None))


def told(text: str) -> HTML:
    """Text that an outsider may have chosen: cut if it is long, its direction kept to itself."""
    more = len(text) - _LONGEST
    shown = text if more <= 0 else f"{text[:_LONGEST]}… ({more} more characters)"
    return element("bdi", shown)


def _escaped(text: object) -> str:
    return escape(printable(str(text)))


# ------------------------------------------------------------------ what both pages are made of


def tone(word: str) -> str:
    """Whether a state, in a word, is good, doubtful or bad."""
    return "bad" if word in BAD else "doubtful" if word in DOUBTFUL else "good"


def badge(word: str) -> HTML:
    """A state, in a word, with a symbol and a colour of its own."""
    kind = tone(word)
    symbol = element("span", _SYMBOLS[kind], class_="symbol", aria_hidden="true")
    return element("span", symbol, HTML(" "), word, class_=f"badge {kind}")


def section(identity: str, heading: str, *content: Content) -> HTML:
    """A part of the page, with a heading of its own."""
    head = element("h2", heading, id=f"{identity}-heading")
    return element("section", head, *content, id=identity, aria_labelledby=f"{identity}-heading")


def verdict(kind: str, heading: str, sentences: Sequence[str] = ()) -> HTML:
    """What the page comes to, and the sentences that say what is wrong."""
    symbol = element("span", _SYMBOLS[kind], class_="symbol", aria_hidden="true")
    head = element("h2", symbol, HTML(" "), heading, id="verdict-heading")
    said = element("ul", *(element("li", told(one)) for one in sentences)) if sentences else None
    return element(
        "section", head, said, id="verdict", class_=f"verdict {kind}", aria_labelledby="verdict-heading"
    )


def facts(pairs: Iterable[tuple[str, Content]]) -> HTML:
    """Names and values, side by side where there is room."""
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", value)) for name, value in pairs),
        class_="facts",
    )


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Content]], empty: str) -> HTML:
    """A table whose first column names the row; on a narrow screen each row becomes a card.

    The roles are those that the elements have anyway, until style sheets take them away.
    """
    if not rows:
        return element("p", empty, class_="empty")
    head = element(
        "tr", *(element("th", one, scope="col", role="columnheader") for one in columns), role="row"
    )
    return element(
        "table",
        element("caption", caption),
        element("thead", head, role="rowgroup"),
        element("tbody", *(_row(columns, row) for row in rows), role="rowgroup"),
        role="table",
    )


def _row(columns: Sequence[str], row: Sequence[Content]) -> HTML:
    first, *others = row
    cells = [element("th", first, scope="row", role="rowheader")]
    for column, cell in zip(columns[1:], others, strict=True):
        shown = element("span", "-", class_="none") if cell is None or cell == "" else cell
        cells.append(element("td", shown, role="cell", data_label=column))
    return element("tr", *cells, role="row")


def age(unix: float | None, now: float) -> HTML | None:
    """How long ago that was, with the time itself to point at."""
    return None if unix is None else timed(unix, f"{brief(max(0.0, now - unix))} ago")


def ahead(unix: float | None, now: float) -> HTML | None:
    """In how long that will be."""
    if unix is None:
        return None
    return timed(unix, f"in {brief(unix - now)}" if unix - now >= 1 else "now")


def brief(seconds: float) -> str:
    """A duration in few words, such as "12 s", "5 m 40 s" or "3 h"."""
    text = f"{seconds:.0f} s" if 1 <= seconds < 60 else span(seconds)  # noqa: PLR2004 (a minute)
    first, unit, *rest = text.split(" ")
    return f"{first} {unit}" if rest[:1] == ["0"] else text


def timed(unix: float, text: str) -> HTML:
    """A text that stands for that time."""
    return element("time", text, datetime=timestamp(unix), title=local(unix))


def local(unix: float) -> str:
    """The time on this node, with the name of its zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(unix))


def document(title: str, path: str, links: Sequence[tuple[str, str]], *content: Content) -> bytes:
    """A whole page.

    Args:
        title: of the window.
        path: of this page.
        links: to all pages: path and name.
        content: of its main part.
    """
    navigation = (
        element("a", name, href=where, aria_current="page" if where == path else None)
        for where, name in links
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("link", rel="icon", href="/icon.svg", type="image/svg+xml"),
        element("link", rel="stylesheet", href="/page.css"),
        element("script", src="/page.js", defer=""),
    )
    body = element(
        "body",
        element("a", "Skip to content", href="#content", class_="skip"),
        element(
            "header",
            element("p", "agentd", class_="brand"),
            element("nav", *navigation, aria_label="Pages"),
            element("p", id="refresh", role="status"),
        ),
        element("main", *content, id="content", tabindex="-1"),
        element(
            "footer",
            "The same for programs: ",
            element("a", "/status", href="/status"), ", ",
            element("a", "/readyz", href="/readyz"), ", ",
            element("a", "/healthz", href="/healthz"), ", ",
            element("a", "/metrics", href="/metrics"), ".",
        ),
    )  # fmt: skip
    return ("<!doctype html>\n" + element("html", head, body, lang="en")).encode()
