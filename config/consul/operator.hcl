# For a person or job that runs `agentd fleet forget NODE`, or `agentd fleet forget --gone` once a day.
#
#   sed 's/FLEET/production/' operator.hcl | consul acl policy create -name agentd-operator -rules -
#
# Whoever holds this can forge what any node acknowledges. A token that has publisher.hcl as well forgets nodes
# that Consul has not known for 7 days whenever it publishes.

key_prefix "agentd/FLEET/nodes/" {
  policy = "write"
}

# All nodes: one that the token may not see would count as gone. And whether agentd still runs on them.
node_prefix "" {
  policy = "read"
}
service "agentd" {
  policy = "read"
}
