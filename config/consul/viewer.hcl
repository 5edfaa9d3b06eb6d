# Whoever looks: `agentd fleet`, `agentd tickets`, `agentd log`. It can change nothing.
#
#   sed 's/FLEET/production/' viewer.hcl | consul acl policy create -name agentd-viewer -rules -

# What each node acknowledges.
key_prefix "agentd/FLEET/nodes/" {
  policy = "read"
}

# What there is to acknowledge, by whom, from where and when. The messages contain payloads, such as addresses
# that are blocked: without the second rule the table lacks who published.
key_prefix "agentd/FLEET/names/" {
  policy = "read"
}
key_prefix "agentd/FLEET/messages/" {
  policy = "read"
}

# The catalogue, for nodes without an agentd, and the health of those that have one.
node_prefix "" {
  policy = "read"
}
service "agentd" {
  policy = "read"
}
