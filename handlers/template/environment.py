"""Jinja2 as templates see it: a sandbox without files, programs, network, environment or clock.

It compiles templates and finds what is wrong with them without any state: a function that is not there, an
unknown filter, a call that `on` does not answer. Each mistake is told with the template's name and line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import TracebackType
from typing import Any, Final

from jinja2 import (
    StrictUndefined,
    Template,
    TemplateSyntaxError,
    UndefinedError,
    nodes,
    pass_context,
)
from jinja2.exceptions import SecurityError
from jinja2.meta import TrackingCodeGenerator
from jinja2.sandbox import ImmutableSandboxedEnvironment

from handlers.template import escaping
from handlers.template.filters import FILTERS, TESTS
from handlers.template.states import FUNCTIONS, find
from handlers.template.templates import Escape
from handlers.template.values import TemplateError

_LEFT_OUT: Final = (
    "e",
    "escape",
    "forceescape",
    "pprint",
    "random",
    "safe",
    "striptags",
    "tojson",
    "urlize",
    "xmlattr",
)
_GLOBALS: Final = ("range", "dict", "cycler", "joiner", "namespace")
_CLOCK: Final = "a clock would make each node's file another, and none ever unchanged"
_DENIED: Final = {
    "env": "templates cannot read the environment, which has secrets: write it to a key, and use key()",
    "file": "templates cannot read files: write the content to a key, and use key()",
    "plugin": "templates cannot run programs: a handler of your own can (docs/writing-a-handler.md)",
    "now": f"{_CLOCK}: leave it out",
    "timestamp": f"{_CLOCK}: leave it out",
    "secret": "there is no Vault here: write the secret to a key, and mark the file `secret: true`",
    "lookup": "templates cannot ask DNS: use service()",
    "random": "nodes would differ from each other: use sha256 of something that they share",
}
_INSTEAD: Final = {
    "safe": "raw", "e": "quote", "escape": "quote", "tojson": "to_json", "random": "sort",
    "b64encode": "base64_encode", "b64decode": "base64_decode", "regex_match": "regex_search",
}  # fmt: skip
_REFUSED: Final = {
    nodes.Include: "include", nodes.Import: "import", nodes.FromImport: "import", nodes.Extends: "extends",
    nodes.ScopedEvalContextModifier: "autoescape",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a template; `line` is 0 if it is not known."""

    name: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.name}{f', line {self.line}' if self.line else ''}: {self.text}"


class _Missing(StrictUndefined):
    """What is not there, told in the words of docs/templates.md instead of Python's."""

    @property
    def _undefined_message(self) -> str:
        value, name = self._undefined_obj, self._undefined_name
        if self._undefined_hint or not is_dataclass(value):
            return super()._undefined_message
        there = ", ".join(one.name for one in fields(value))
        return f"a {type(value).__name__} has no {name!r}; it has {there}"


class _Environment(ImmutableSandboxedEnvironment):
    """Without a loader, and with our filters."""

    concat = staticmethod(escaping.concat)

    def __init__(self, check: Callable[[Any], str]) -> None:
        super().__init__(
            undefined=_Missing,
            # With the context, and not optimized: nothing is evaluated before limits hold.
            finalize=pass_context(lambda _context, value: check(value)),
            optimized=False,
            autoescape=False,  # for HTML, which this is not
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"],
        )
        for name in _LEFT_OUT:
            del self.filters[name]
        self.filters |= FILTERS
        self.tests |= TESTS
        self.globals = {name: one for name, one in self.globals.items() if name in _GLOBALS}
        self.globals |= dict.fromkeys(FUNCTIONS, None)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:  # noqa: ANN401 (Jinja2's)
        """As Jinja2's, but what `format` makes of checked text is checked again."""
        wrapped = super().wrap_str_format(value)
        return wrapped and (lambda *given, **named: str(wrapped(*given, **named)))


_ENVIRONMENTS: Final[Mapping[Escape, _Environment]] = {
    "nginx": _Environment(escaping.nginx),
    "none": _Environment(escaping.plain),
}


def faults(name: str, text: str, escape: Escape, on: Sequence[Mapping[str, Any]]) -> list[Fault]:
    """All mistakes of a template that can be found without a state; a wrong syntax hides the others."""
    environment = _ENVIRONMENTS[escape]
    try:
        tree = environment.parse(text)
    except TemplateSyntaxError as error:
        return [Fault(name, error.lineno, str(error.message))]
    except RecursionError:
        return [Fault(name, 0, "it is nested too deeply")]
    found = [*_mistakes(name, tree, environment, on)]
    try:
        environment.compile(text, name)
    except TemplateSyntaxError as error:
        found = found or [Fault(name, error.lineno, str(error.message))]
    return sorted(found, key=lambda fault: fault.line)


class Compiled:
    """A template that can be rendered.

    Args:
        name: as messages say it.
        text: the template.
        escape: what is done with values.
        on: the items of `on`, their defaults filled in.

    Raises:
        TemplateError: with its first mistake; `faults` finds all.
    """

    def __init__(self, name: str, text: str, escape: Escape, on: Sequence[Mapping[str, Any]]) -> None:
        for fault in faults(name, text, escape, on):
            raise TemplateError(str(fault))
        self.name = name
        self._nginx = escape == "nginx"
        self._file = f"<{name}>"
        environment = _ENVIRONMENTS[escape]
        tree = environment.parse(text)
        if self._nginx:
            _trust_literals(tree)
        code = environment.compile(tree, name, self._file)
        self._template = Template.from_code(environment, code, environment.make_globals(None))

    def render(self, functions: Mapping[str, Callable[..., Any]], *, discreet: bool = False) -> str:
        """Render with these functions; `discreet` if a message must not quote what could be secret.

        Raises:
            TemplateError: it fails, or prints what may not be printed; the text has name and line.
            MemoryError: there is too little.
        """
        try:
            text = self._template.render(functions)
            return escaping.joined(text) if self._nginx else str(text)
        except MemoryError:
            raise
        except Exception as error:  # whatever a template's expression may raise
            fault = Fault(self.name, self._line(error.__traceback__), _told(error, discreet=discreet))
            raise TemplateError(str(fault)) from error

    def _line(self, trace: TracebackType | None) -> int:
        """The innermost line of the template; Jinja2 has rewritten the trace."""
        line = 0
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self._file:
                line = trace.tb_lineno
            trace = trace.tb_next
        return line


def _told(error: Exception, *, discreet: bool) -> str:
    if isinstance(error, TemplateError):
        return error.unquoted if discreet else str(error)
    if discreet:
        return f"it fails with {type(error).__name__}; what it says may be secret"
    if isinstance(error, UndefinedError):
        return f"{ascii(str(error))[1:-1][:200]}: use `| default(...)` if it may be missing"
    if isinstance(error, SecurityError):
        return f"{ascii(str(error).rstrip('.'))[1:-1][:200]}: the sandbox does not allow that"
    return f"{type(error).__name__}: {ascii(str(error))[1:-1][:200]}"


def _mistakes(
    name: str, tree: nodes.Template, environment: _Environment, on: Sequence[Mapping[str, Any]]
) -> Iterator[Fault]:
    for kind, word in _REFUSED.items():
        for node in tree.find_all(kind):
            yield Fault(
                name, node.lineno, f"there is no {{% {word} %}} here: a template is one file; macros work"
            )
    for node in tree.find_all(nodes.FilterBlock):
        yield Fault(
            name, node.lineno, "use {% set x %}...{% endset %} and {{ x | ... }} instead of {% filter %}"
        )
    unknown = [*_unknown(name, tree, environment)]
    yield from unknown or _undeclared(name, tree, environment)  # to find the latter, the former must be known
    yield from _calls(name, tree, on)


def _unknown(name: str, tree: nodes.Template, environment: _Environment) -> Iterator[Fault]:
    for filtered in tree.find_all(nodes.Filter):
        if filtered.name not in environment.filters:
            instead = _INSTEAD.get(filtered.name)
            advice = f"use {instead}" if instead else "docs/templates.md lists what there is"
            yield Fault(name, filtered.lineno, f"there is no filter {filtered.name}: {advice}")
    for tested in tree.find_all(nodes.Test):
        if tested.name not in environment.tests:
            yield Fault(
                name, tested.lineno, f"there is no test {tested.name}: docs/templates.md lists what there is"
            )


def _undeclared(name: str, tree: nodes.Template, environment: _Environment) -> Iterator[Fault]:
    tracking = TrackingCodeGenerator(environment)
    tracking.optimizer = None  # it would evaluate expressions
    tracking.visit(tree)
    unknown = tracking.undeclared_identifiers - environment.globals.keys()
    for used in tree.find_all(nodes.Name):
        if used.ctx == "load" and used.name in unknown:
            why = _DENIED.get(used.name, "docs/templates.md lists what there is")
            yield Fault(name, used.lineno, f"there is no {used.name}: {why}")


def _calls(name: str, tree: nodes.Template, on: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Calls that `on` does not answer, as far as their arguments are plain."""
    for call in tree.find_all(nodes.Call):
        if not (isinstance(call.node, nodes.Name) and call.node.name in FUNCTIONS):
            continue
        named = {one.key: one.value for one in call.kwargs if one.key != "nested"}
        if not all(isinstance(one, nodes.Const) for one in (*call.args, *named.values())):
            continue
        given = [one.as_const() for one in call.args]
        which = {name: one.as_const() for name, one in named.items()}
        try:
            find(on, call.node.name, given, which)
        except TemplateError as error:
            yield Fault(name, call.lineno, str(error))


def _trust_literals(tree: nodes.Template) -> None:
    """What the author wrote in an expression is as much the template as what is around it."""
    for output in tree.find_all(nodes.Output):
        output.nodes = [_trusted(one) for one in output.nodes]


def _trusted(node: nodes.Expr) -> nodes.Expr:
    if isinstance(node, nodes.CondExpr):
        node.expr1 = _trusted(node.expr1)
        node.expr2 = _trusted(node.expr2 or nodes.Const("", lineno=node.lineno))
    elif isinstance(node, nodes.Const) and isinstance(node.value, str):
        return nodes.Filter(node, "raw", [], [], None, None, lineno=node.lineno, environment=node.environment)
    return node
