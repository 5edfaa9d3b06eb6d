# ruff: noqa: INP001 (a module of its own, as pyproject.toml beside it says)
"""`agentd maintenance`: closes the sites of the whole fleet or opens them, by the handler's key."""

from __future__ import annotations

from argparse import Namespace

from agentd.command import Output, Parser, add_command, add_consul_arguments, consul, word

HELP = "close the sites of the whole fleet, or open them again"
_PATH = "/v1/kv/site/maintenance"


def add_arguments(parser: Parser) -> None:
    """A verb; closing takes the text that visitors see."""
    parser.add_example('agentd maintenance on "Back at 14:00."', "agentd maintenance off")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    close = add_command(verbs, "on", "close the sites")
    close.add_argument("text", type=word, metavar="TEXT", help="what visitors see")
    add_consul_arguments(close)
    add_consul_arguments(add_command(verbs, "off", "open the sites again"))


def execute(arguments: Namespace, output: Output) -> int:
    """Write the key, or delete it."""
    closed = arguments.verb == "on"
    with consul(arguments) as client:
        if closed:
            client.send("PUT", _PATH, body=arguments.text.encode())
        else:
            client.send("DELETE", _PATH)
    if output.json:
        output.document({"closed": closed})
    output.line("The sites are being closed." if closed else "The sites are being opened.")
    return 0
