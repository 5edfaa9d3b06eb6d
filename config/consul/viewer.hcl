# For whoever runs `agentd fleet`, `agentd tickets` or `agentd log`. It grants no writes.
#
#   sed 's/FLEET/production/' viewer.hcl | consul acl policy create -name agentd-viewer -rules -

# What each node acknowledges.
key_prefix "agentd/FLEET/nodes/" {
  policy = "read"
}

# What was published, by whom, from where and when. Messages contain payloads, such as blocked addresses. Without the
# second rule, `agentd fleet` works but does not show who published.
key_prefix "agentd/FLEET/names/" {
  policy = "read"
}
key_prefix "agentd/FLEET/messages/" {
  policy = "read"
}

# The catalogue, to find nodes without agentd, and the health of agentd on the others.
node_prefix "" {
  policy = "read"
}
service "agentd" {
  policy = "read"
}
