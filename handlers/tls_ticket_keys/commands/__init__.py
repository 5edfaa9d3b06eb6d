"""The commands that come with the handler: they talk to Consul, which a handler never does."""
