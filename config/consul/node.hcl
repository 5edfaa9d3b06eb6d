# Every node of the fleet needs this: it follows the log and acknowledges.
#
# Replace FLEET with `fleet.name`, and NODE with the node's name (`fleet.node`, or else its Consul agent's node name):
#
#   sed 's/FLEET/production/; s/NODE/lb-1/' node.hcl | consul acl policy create -name agentd-lb-1 -rules -
#   consul acl token create -description 'agentd on lb-1' -policy-name agentd-lb-1 -policy-name agentd-relay
#
# Create one policy and one token per node: if all nodes share a token, any of them can forge what the others
# acknowledge. The rules are the same in Consul 1.8 and all later releases. Where the agents set
# `acl.enable_key_list_policy`, write "list" instead of "read" for the three `key_prefix` rules.

# All events, not only the kept ones: only the complete list shows whether some were lost.
event_prefix "" {
  policy = "read"
}

# The event clock, from which agentd works out how many events it missed, and the number of members.
agent_prefix "" {
  policy = "read"
}

# The log: its heads, which are watched; the messages; and payloads too long to fit into a message.
key_prefix "agentd/FLEET/names/" {
  policy = "read"
}
key_prefix "agentd/FLEET/messages/" {
  policy = "read"
}
key_prefix "agentd/FLEET/bodies/" {
  policy = "read"
}

# This node's own acknowledgement, and no other node's.
key "agentd/FLEET/nodes/NODE" {
  policy = "write"
}

# The service `agentd` and its health check; not needed with `fleet.service: false`.
service "agentd" {
  policy = "write"
}

# Add whatever else the handlers on this node watch, such as
# service "api" { policy = "read" }
# node_prefix "" { policy = "read" }
# key "site/maintenance" { policy = "read" }
