"""Whatever an outsider chose is text on the page, and nothing else."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.page.html import HTML, brief, element, told
from agentd.printable import printable

_SIGNS = "<>&\"'/=`\x00\n\u202e"
ANYTHING = st.text(st.one_of(st.sampled_from(_SIGNS), st.characters()))


class Seen(HTMLParser):
    """What a browser makes of it."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note it."""
        self.text += data


@given(ANYTHING, ANYTHING)
def test_text_and_attributes_stay_what_they_are(text: str, value: str) -> None:
    """Neither ends what it is in, and no character steers what is around it."""
    seen = Seen(element("p", text, title=value))

    assert seen.tags == [("p", {"title": printable(value)})]
    assert seen.text == printable(text)


def test_markup_is_made_by_elements_alone() -> None:
    """An element inside another one is not escaped again."""
    assert element("p", element("b", "<"), " & ") == "<p><b>&lt;</b> &amp; </p>"
    assert isinstance(element("p"), HTML)


def test_a_long_text_is_cut_and_says_so() -> None:
    """A reason of a megabyte is not sent to a phone."""
    assert told("x" * 1500) == f"<bdi>{'x' * 1000}… (500 more characters)</bdi>"


@pytest.mark.parametrize(
    "seconds,text",
    [
        (0.5, "500 ms"),
        (12.4, "12 s"),
        (60, "1 m"),
        (340, "5 m 40 s"),
        (10800, "3 h"),
        (90060, "1 d 1 h"),
    ],
)
def test_an_age_is_brief(seconds: float, text: str) -> None:
    """No more digits than a person reads."""
    assert brief(seconds) == text
