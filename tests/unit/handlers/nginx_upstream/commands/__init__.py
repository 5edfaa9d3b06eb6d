"""Tests of the commands that come with nginx_upstream."""
