"""Keeps values from ending the nginx directive that a template writes them in.

Whoever registers a service or writes a key chooses values. So each printed value is checked: as it stands it
must be a plain part of a word; `quote` makes a whole quoted parameter of it, and `raw` says that the author
answers for it. What the template itself says is not checked, nor what a macro or a `set` block made of
checked parts. Afterwards `joined` makes sure that each quoted parameter is one for nginx, too.

Source: ngx_conf_read_token in nginx's src/core/ngx_conf_file.c
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from jinja2 import Undefined

from handlers.template.values import Binary, TemplateError

_OPEN, _CLOSE = "\ue000", "\ue001"  # around each quoted parameter, until the whole file is there
_ORDER = "\ue002"  # likewise before each value that is one of `_WORDS`
_MARKS: Final = re.compile(f"[{_OPEN}{_CLOSE}{_ORDER}]")
_LONGEST: Final = 4000
"""Bytes of a value: nginx reads no parameter of 4,096 bytes."""
_PLAIN: Final = re.compile(r"[\w.:/@%+,=~\[\]*!^|?&<>-]*")
_SEPARATOR: Final = re.compile(r"[\w.:/@%+,=~|&<> \t-]*")
_WORDS: Final = frozenset(
    {"default", "delete", "hostnames", "include", "proxy", "proxy_recursive", "ranges", "volatile"}
)
"""What nginx takes for an order in the first column of a map or geo block, quoted or not."""
_PRINTABLE: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff\ue000-\ue002\u2028\u2029]*")
_TOKEN: Final = re.compile(
    rf"""(?P<between>[\s;{{}}]+)
    |\#[^\n]*
    |(?P<value>{_OPEN}"(?:\\.|[^"\\])*"{_CLOSE})(?P<after>[^\s;{{)]?)
    |"(?:\\.|[^"\\])*"?
    |'(?:\\.|[^'\\])*'?
    |(?:\\.|\$\{{|[^\s;{{\\]|\\$)+
    """,
    re.VERBOSE | re.DOTALL,
)


class Checked(str):
    """Text that may be printed as it is. Whatever is made of it by other means is checked again."""

    __slots__ = ()


class Quoted(Checked):
    """A whole quoted parameter."""

    __slots__ = ()


class Joined(str):
    """What `join` makes of a list: one text, of which each part is checked by itself when it is printed."""

    __slots__ = ("parts", "separator")

    parts: list[Any]
    separator: str

    @classmethod
    def of(cls, parts: Iterable[Any], separator: str) -> Joined:
        """Join the parts."""
        listed = list(parts)
        made = cls(str(separator).join(map(_text, listed)))
        made.parts, made.separator = listed, str(separator)
        return made


def concat(parts: Iterable[str]) -> Checked:
    """Put together what a template printed; each part was checked, or is the template's own."""
    return Checked("".join(parts))


def raw(value: Any) -> Checked:  # noqa: ANN401 (of the template)
    """Print the value as it is: whoever chose it could write any directive."""
    return Checked(_MARKS.sub("", _text(value)))


def quote(value: Any) -> Quoted:  # noqa: ANN401 (as above)
    """Make a quoted parameter of the value.

    Raises:
        TemplateError: it contains what no quotes protect: a control character, or $.
    """
    text = _text(value)
    _check(text, _PRINTABLE, "which no parameter may contain")
    if "$" in text:
        where = f"a value of {len(text)} characters has '$' at position {text.index('$') + 1}"
        raise TemplateError(f"{where}: nginx would read a variable, whatever is quoted")
    return Quoted('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')


def map_key(value: Any) -> Quoted:  # noqa: ANN401 (as above)
    """Make a source value of a map: quoted, and neither an order such as `include` nor a regex."""
    text = _text(value)
    if text in _WORDS or text[:1] in ("~", "\\"):
        text = f"\\{text}"
    return quote(text)


def nginx(value: Any) -> str:  # noqa: ANN401 (as above)
    """What is printed for a value in a file of nginx's.

    Raises:
        TemplateError: it is not plain.
    """
    if isinstance(value, Quoted):
        return f"{_OPEN}{value}{_CLOSE}"
    if isinstance(value, Checked):
        return value
    if isinstance(value, Joined) and value.parts:
        _check(value.separator, _SEPARATOR, "which does not belong between plain words: use a loop")
        return value.separator.join(map(nginx, value.parts))
    text = _text(value)
    if not text:
        raise TemplateError(
            "a value is empty, so nginx would count fewer parameters: use `| quote` or `| default`"
        )
    _check(text, _PLAIN, "which does not belong in a plain word: use `| quote`")
    if text[0] == "~":
        raise TemplateError("a value begins with ~, as a regular expression does: use `| map_key` or `| raw`")
    return f"{_ORDER}{text}" if text in _WORDS else text


def plain(value: Any) -> str:  # noqa: ANN401 (as above)
    """What is printed for a value in a file of another format."""
    return _text(value)


def joined(text: str) -> str:
    """The whole file, once each quoted parameter in it turns out to be one, and no value to be an order.

    Raises:
        TemplateError: one is within quotes or a word of the template's, or an order in the first column.
    """
    if not _MARKS.search(text):
        return text
    first = True  # in its directive
    for token in _TOKEN.finditer(text):
        found = token.group()
        if token["between"]:
            first = first or not found.isspace()
        elif not found.startswith("#"):
            if _MARKS.search(found):
                _check_token(token, first=first)
            first = False
    return _MARKS.sub("", text)


def _check_token(token: re.Match[str], *, first: bool) -> None:
    """That what has marks is what nginx takes for one parameter, and not for an order."""
    found = token.group()
    plain = _MARKS.sub("", found).strip("\"'")
    if first and (plain in _WORDS or (token["value"] and plain.startswith("~"))):
        raise TemplateError(
            f"a value stands in the first column ({_line(token)}), where nginx obeys"
            f" {', '.join(sorted(_WORDS))} and takes ~ for a regular expression, also in"
            " quotes: use `| map_key` in a map"
        )
    if _OPEN in found and token["value"] is None:
        where = "within quotes" if found[0] in "\"'" else "within a word"
        raise TemplateError(
            f"what `| quote` makes is a whole parameter, and is written {where} ({_line(token)}):"
            ' remove the quotes around it, or quote all, as in {{ ("x=" ~ value) | quote }}'
        )
    if token["after"]:
        raise TemplateError(
            f"what `| quote` makes must end with a space or ; ({_line(token)}):"
            ' put it together first, as in {{ (value ~ "x") | quote }}'
        )


def _line(token: re.Match[str]) -> str:
    """Where the first marked value of a token is."""
    before = token.string[: token.start()] + _MARKS.split(token.group(), maxsplit=1)[0]
    return f"line {before.count(chr(10)) + 1} of the result"


def _text(value: Any) -> str:  # noqa: ANN401 (as above)
    if isinstance(value, str):
        return value
    if isinstance(value, Binary | Undefined):
        return str(value)  # which says what is wrong, unless it is an `if` without `else`
    if isinstance(value, bool) or value is None:
        raise TemplateError(
            f'a value is {value}: say what is to be printed, as in {{{{ "on" if x else "off" }}}}'
        )
    if isinstance(value, int | float):
        return str(value)
    raise TemplateError(
        f"a value is a {type(value).__name__}, which cannot be printed: use `| join` or `| to_json`"
    )


def _check(text: str, allowed: re.Pattern[str], what: str) -> None:
    matched = allowed.match(text)
    end = matched.end() if matched else 0
    if end < len(text):
        where = f"a value of {len(text)} characters has {{}} at position {end + 1}, {what}"
        raise TemplateError(where.format(ascii(text[end])), where.format("a character"))
    if len(text) > _LONGEST // 4 and len(text.encode()) > _LONGEST:
        raise TemplateError(f"a value is longer than {_LONGEST} bytes, and nginx reads no such parameter")
