"""No value ends the nginx directive that a template prints it in."""

from __future__ import annotations

import base64
import json
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handlers.template.environment import Compiled
from handlers.template.states import State, States
from handlers.template.values import TemplateError
from tests.unit.handlers.template.nginx_words import UnreadableError, words

ON: Final = {"key": "k"}
HOSTILE: Final = (
    *("", " ", ";", "a;b", "a b", "{", "}", "a{", "#", "#a", "a#b", '"', "'", 'a"b', "\\", "a\\", "\\;"),
    *("$a", "${a}", "a$b", "\n", "a\nb", "\r", "\t", "\0", "\x1b[2J", "~", "~.*"),
    *("default", "include", "proxy", "volatile"),
    *("\u2028", "\ue000", "\ue001", "\ue002"),
    *('\ue000"x"\ue001', "x" * 5000, "\u00e4" * 2500, "\u202e", "\ufeff"),
    *("a;}server{listen 1;", '"; include /etc/passwd; #', "');", '\\";', "a\u00a0b", "(", ")", "*", "*.a"),
)  # fmt: skip

ORDERS: Final = (
    *("default", "delete", "hostnames", "include", "proxy", "proxy_recursive", "ranges", "volatile"),
)


def render(template: str, value: str) -> str:
    """The template with the value as that of the key `k`; what JSON cannot say is replaced."""
    data = value.encode(errors="replace")
    state = State(ON, come=True, raw={"Key": "k", "Value": base64.b64encode(data).decode()})
    return Compiled("t", template, "nginx", [ON]).render(States([state]).functions)


def hostile(template: str) -> list[tuple[str, list[str]]]:
    """Each hostile value that the template prints, with the words that nginx reads then."""
    printed = []
    for value in HOSTILE:
        try:
            printed.append((value, words(render(template, value))))
        except TemplateError:
            continue
    return printed


@pytest.mark.parametrize(
    "template, reads",
    [
        ('a {{ key("k") }} b;', ["a", "{}", "b", ";"]),
        ('a "x {{ key("k") }} y" b;', ["a", "x {} y", "b", ";"]),
        ("a 'x {{ key(\"k\") }}';", ["a", "x {}", ";"]),
        ('a x{{ key("k") }}y;', ["a", "x{}y", ";"]),
        ('# {{ key("k") }}\na;', ["a", ";"]),
        ('a {{ key("k") | quote }} b;', ["a", "{}", "b", ";"]),
        ('a {{ ("x " ~ key("k")) | quote }};', ["a", "x {}", ";"]),
        ('a {{ [key("k"), "z"] | join(" ") }};', ["a", "{}", "z", ";"]),
        ('a {{ [key("k"), "z z"] | map("quote") | join(" ") }};', ["a", "{}", "z z", ";"]),
        ('{% macro m(x) %}{{ x | quote }};{% endmacro %}a {{ m(key("k")) }}', ["a", "{}", ";"]),
        ('{% set x %}{{ key("k") | quote }} b{% endset %}a {{ x }};', ["a", "{}", "b", ";"]),
    ],
)
def test_a_value_is_one_word_or_refused(template: str, reads: list[str]) -> None:
    """Whatever it contains, nginx reads as many words as the author wrote."""
    for value, found in hostile(template):
        assert found == [one.replace("{}", value) for one in reads]


@pytest.mark.parametrize(
    "template",
    [
        'a "{{ key("k") | quote }}";',
        "a '{{ key(\"k\") | quote }}';",
        'a x={{ key("k") | quote }};',
        'a {{ key("k") | quote }}x;',
        'a "x {{ key("k") | quote }}";',
        '{% set q = key("k") | quote %}a "{{ q }}";',
    ],
)
def test_a_quoted_parameter_within_another_is_refused(template: str) -> None:
    """Else nginx would end the outer one there, and read the value as directives."""
    with pytest.raises(TemplateError, match="line 1 of the result"):
        render(template, "; include /etc/passwd; #")


@pytest.mark.parametrize(
    "template",
    [
        '{{ (key("k") | quote) ~ key("k") }}',
        '{{ key("k") ~ ("a" | raw) }}',
        '{{ ("a" | raw) + key("k") }}',
        '{{ ("{}" | raw).format(key("k")) }}',
        '{{ ("%s" | raw) % key("k") }}',
        '{{ "%s" | raw | format(key("k")) }}',
        '{{ ("," | raw).join([key("k")]) }}',
        '{{ ("a" | raw) | replace("a", key("k")) }}',
        '{% set f %}{}{% endset %}{{ f.format(key("k")) }}',
        '{{ "a" | raw | default(key("k")) ~ key("k") }}',
        '{{ key("k") | string }}',
        '{% set ns = namespace(x="") %}{% set ns.x = key("k") %}{{ ns.x }}',
        '{{ [key("k")] | join("") }}',
        '{{ {"a": key("k")}["a"] }}',
        '{{ key("k") if true else "x" }}',
        '{{ ["a", "b"] | join(key("k")) }}',
        '{% for c in key("k") %}{{ c }}{% endfor %}',
        '{{ key("k") | base64_encode | base64_decode }}',
        '{{ cycler(key("k")).next() }}',
        "{% call(x) m() %}{{ x }}{% endcall %}",
    ],
)
def test_nothing_but_raw_lets_a_value_through(template: str) -> None:
    """Not what is made of checked text by other means either."""
    macro = '{% macro m() %}{{ caller(key("k")) }}{% endmacro %}'

    with pytest.raises(TemplateError, match="does not belong"):
        render(macro + template, ";")


def test_raw_lets_a_value_through() -> None:
    """The author answers for it."""
    assert render('{{ key("k") | raw }}', 'a "b"; $c {') == 'a "b"; $c {'


@pytest.mark.parametrize("value", ["None", "true", "[]", "{}", "service"])
def test_what_is_no_text_is_not_printed_as_python_would(value: str) -> None:
    """None, True and lists are mistakes of the author's, told as such."""
    with pytest.raises(TemplateError, match="a value is"):
        render(f"{{{{ {value} }}}}", "x")


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example('"; include /etc/passwd; #')
def test_any_text_is_one_word_when_it_is_quoted(value: str) -> None:
    """Or refused, because no quotes protect it."""
    try:
        printed = render('a {{ key("k") | quote }} b;', value)
    except TemplateError:
        assert "$" in value or not value.isprintable() or len(value) > 1000
    else:
        assert words(printed) == ["a", value, "b", ";"]


@given(st.text(st.sampled_from("ab;{}\"'\\$# \n~=*\ue000\ue001")))
def test_any_text_is_one_word_as_it_stands_or_refused(value: str) -> None:
    """Within quotes of the author's as well."""
    try:
        printed = render('a {{ key("k") }} "x {{ key("k") }}";', value)
    except TemplateError:
        return
    assert words(printed) == ["a", value, f"x {value}", ";"]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
@example("include")
@example("\\default")
@example("~.*")
def test_a_key_of_a_map_is_neither_an_order_nor_a_regular_expression(value: str) -> None:
    """One backslash is taken away by nginx in front of what it would take for one."""
    try:
        printed = render('{{ key("k") | map_key }} 1;', value)
    except TemplateError:
        return
    first = words(printed)[0]
    assert first.removeprefix("\\") == value if first.startswith("\\") else first == value
    assert not first.startswith("~")
    assert first not in ORDERS


@pytest.mark.parametrize(
    "template",
    [
        '{{ key("k") }} 1;',
        '{{ key("k") | quote }} {{ key("k") | quote }};',
        '"{{ key("k") }}" 1;',
        "geo $a $b { # x\n '{{ key(\"k\") }}' 0.0.0.0/0; }",
        'a 1; {% set x %}{{ key("k") | quote }}{% endset %}{{ x }} 1;',
    ],
)
def test_no_value_is_an_order_in_the_first_column(template: str) -> None:
    """There nginx would include a file, or trust a proxy, whether or not the word is in quotes."""
    for order in ORDERS:
        with pytest.raises(TemplateError, match=r"first column \(line \d of the result\).*map_key"):
            render(template, order)


def test_a_regular_expression_in_quotes_is_one_in_the_first_column() -> None:
    """So what is quoted does not begin with ~ there, and may elsewhere."""
    with pytest.raises(TemplateError, match="first column"):
        render('{{ key("k") | quote }} 1;', "~.*")

    assert render('a {{ key("k") | quote }};', "~.*") == 'a "~.*";'


def test_a_word_is_no_order_elsewhere() -> None:
    """A service may be called proxy."""
    written = 'upstream {{ key("k") }} { } a x-{{ key("k") }}; {{ key("k") }}.example 1; ~^{{ key("k") }}$ 2;'

    assert render(written, "proxy") == written.replace('{{ key("k") }}', "proxy")


def test_the_words_of_nginx_are_read_as_nginx_reads_them() -> None:
    """The reader of these tests tells what is no configuration from what is one."""
    assert words('a "b\\"c" \'d\' e\\ f; # g;\nh{}') == ["a", 'b"c', "d", "e\\ f", ";", "h", "{", "}"]
    with pytest.raises(UnreadableError):
        words('a "b"c;')


def test_a_file_of_another_format_is_not_checked() -> None:
    """PEM and JSON have quotes, braces and lines."""
    state = State(ON, come=True, raw={"Key": "k", "Value": base64.b64encode(b'-;{"\n').decode()})
    made = Compiled("t", '{{ {"a": key("k")} | to_json }}', "none", [ON])

    assert json.loads(made.render(States([state]).functions)) == {"a": '-;{"\n'}
