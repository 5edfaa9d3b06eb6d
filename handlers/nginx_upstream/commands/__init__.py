"""`agentd upstream` and `agentd rolling`: an upstream changed on all load balancers of a service.

They find the load balancers through Consul, which the handler must not; the handler does not import them.
"""
