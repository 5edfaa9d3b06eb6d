"""nginx_reload as it is, but looking more often whether nginx still serves what was proved."""

from __future__ import annotations

from handlers.nginx_reload import NginxReload


class WatchfulReload(NginxReload):
    """Verifies once a second."""

    @property
    def verify_every(self) -> float:
        """See `Handler.verify_every`."""
        return 1.0
