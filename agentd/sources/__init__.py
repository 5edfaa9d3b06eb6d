"""Payloads by reference: fetched to a private file, limited, verified, and only then passed on.

Whoever fires an event chooses the reference, so nothing is opened or requested before the allowlist
(`sources.allow`) has accepted it. Nothing here reads what it fetched, or reveals a query, a header or a byte
of it.
"""
