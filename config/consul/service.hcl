# Tells Consul whether agentd on this node is alive and ready, where no fleet does: in a fleet agentd registers itself
# (`fleet.service`). Copy it to Consul's configuration directory, such as /etc/consul.d/agentd.hcl; then
# `consul reload`.
#
# The checks belong to this service, so that a failing one takes no other service of the node out of use.
service {
  name = "agentd"
  id   = "agentd"

  checks = [
    {
      id       = "agentd-alive"
      name     = "agentd: every thread is alive"
      http     = "http://127.0.0.1:9521/healthz"
      interval = "10s"
      timeout  = "5s"
    },
    {
      id       = "agentd-ready"
      name     = "agentd: ready"
      http     = "http://127.0.0.1:9521/readyz"
      interval = "10s"
      timeout  = "5s"

      # A restart is no failure.
      failures_before_critical = 3
    },
  ]
}
