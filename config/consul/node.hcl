# A node of the fleet that follows the log and acknowledges: every node needs this.
#
# Replace FLEET by `fleet.name`, and NODE by the name of the node (`fleet.node`, else that of its Consul agent):
#
#   sed 's/FLEET/production/; s/NODE/lb-1/' node.hcl | consul acl policy create -name agentd-lb-1 -rules -
#   consul acl token create -description 'agentd on lb-1' -policy-name agentd-lb-1 -policy-name agentd-relay
#
# One policy and one token for each node: with one token for all, any node can forge what any other one says.
# The rules are the same in Consul 1.8 and in every later release. Where the agents set
# `acl.enable_key_list_policy`, write "list" instead of "read" for the three `key_prefix` rules.

# All events, not only those that are kept: only the complete list shows whether some were lost.
event_prefix "" {
  policy = "read"
}

# The clock of events, by which agentd counts what it missed, and the number of members.
agent_prefix "" {
  policy = "read"
}

# What the log has: its heads, which are watched, the messages, and bodies that are too long for one.
key_prefix "agentd/FLEET/names/" {
  policy = "read"
}
key_prefix "agentd/FLEET/messages/" {
  policy = "read"
}
key_prefix "agentd/FLEET/bodies/" {
  policy = "read"
}

# What this node acknowledges, and nobody else's document.
key "agentd/FLEET/nodes/NODE" {
  policy = "write"
}

# The service `agentd` with its health check; not needed with `fleet.service: false`.
service "agentd" {
  policy = "write"
}

# Whatever else the handlers of this node watch, such as
# service "api" { policy = "read" }
# node_prefix "" { policy = "read" }
# key "site/maintenance" { policy = "read" }
