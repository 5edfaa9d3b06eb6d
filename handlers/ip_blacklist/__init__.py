"""Blocks addresses in nginx: events add, remove and load them, feeds come on schedule, entries expire.

    handler       the plug-in: applies events, does the timed work, answers the command line
    payload       the lines of an event; `options` what the configuration says
    entries       what events added; `lists` the named lists; `feeds` when each is fetched
    exemptions    what is never blocked; `guards` what a list may contain
    formats       what publishers serve -> addresses; `compile` those -> nginx's files and a report
    ranges, geo   arithmetic on address ranges; nginx's `geo` files: written, read, searched
    enforcement   nginx's include, and the `outputs` for the kernel and HAProxy
    loader        the second plug-in: loads the outputs, and restores them; `comparison` says what differs
    ipset, nftables, acl   each output: its file, how it is loaded, how it is read back
    kernel        what ipset and nftables have in common, and the rights they take; `program` asks them
    child         runs the work on long lists in a separate program
    command       `agentd blacklist`; `inspection` what its `list` and `why` show

This file imports nothing, so that `child` starts within milliseconds.
"""
