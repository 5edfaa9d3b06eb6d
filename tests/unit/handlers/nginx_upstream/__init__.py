"""nginx_upstream."""
