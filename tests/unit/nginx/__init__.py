"""Unit tests of agentd/nginx/."""
