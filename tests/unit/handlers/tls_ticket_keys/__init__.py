"""Tests of `tls_ticket_keys`; they mirror its modules."""
