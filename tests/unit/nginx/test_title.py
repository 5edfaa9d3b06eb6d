"""The options in a master's title."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.nginx.title import Invocation, parse

_PATHS = st.from_regex(r"/[a-z0-9._]{1,9}( [a-z0-9._]{1,9}){0,2}", fullmatch=True)
_DIRECTIVES = st.from_regex(
    r"[a-z_]{1,9} [a-z0-9/]{1,9};( [a-z_]{1,9}( -e)? [a-z0-9]{1,9};)?", fullmatch=True
)


@pytest.mark.parametrize(
    "arguments,expected",
    [
        ("/usr/sbin/nginx", Invocation()),
        ("nginx -c /etc/nginx/nginx.conf", Invocation(conf="/etc/nginx/nginx.conf")),
        ("nginx -c/x.conf -p/srv/", Invocation(prefix="/srv/", conf="/x.conf")),
        ("nginx -g daemon on; user x;", Invocation(directives="daemon on; user x;")),
        ("nginx -g daemon off; -p /srv", Invocation(prefix="/srv", directives="daemon off;")),
        ("nginx -g env A=-e -p; -e stderr", Invocation(directives="env A=-e -p;", error_log="stderr")),
        ("nginx -qc /x.conf", Invocation(conf="/x.conf")),
        ("nginx -c /x.conf -c /y.conf", Invocation(conf="/y.conf")),
        ("nginx -c /with a blank.conf -p /p q/", Invocation(prefix="/p q/", conf="/with a blank.conf")),
        ("nginx -p /srv -g daemon of", Invocation(prefix="/srv")),
        ("nginx -p", Invocation()),
        ("", Invocation()),
    ],
)
def test_the_options_are_read(arguments: str, expected: Invocation) -> None:
    """Attached or apart, more than one letter, blanks in a value, and a title that was cut off."""
    assert parse(f"nginx: master process {arguments}\0\0") == expected


@given(st.builds(Invocation, prefix=_PATHS, conf=_PATHS, directives=_DIRECTIVES, error_log=_PATHS))
def test_what_nginx_was_given_is_what_is_read(given_: Invocation) -> None:
    """In the order in which start scripts write it."""
    words = ["/usr/sbin/nginx", *given_.arguments, "-c", given_.conf]

    assert parse("nginx: master process " + " ".join(words)) == given_


@given(st.text(max_size=200))
def test_no_title_is_an_error(text: str) -> None:
    """Any program can choose its own."""
    parse(text)
    parse(f"nginx: master process {text}")
