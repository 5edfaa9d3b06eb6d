# A node that writes the events it hears to the log (`fleet.relay`, the default): in addition to node.hcl.
#
#   sed 's/FLEET/production/' relay.hcl | consul acl policy create -name agentd-relay -rules -
#
# Whoever has it can write a message of any name, and so do on all nodes what their handlers do for one. A fleet
# needs several relays, not all: what none of them hears is lost. Give it to the nodes that you trust most.

# Heads and messages, those that expired or were replaced included: they are deleted in the same transaction.
key_prefix "agentd/FLEET/names/" {
  policy = "write"
}
key_prefix "agentd/FLEET/messages/" {
  policy = "write"
}

# Which events were pruned a moment ago, so that none is written twice.
key_prefix "agentd/FLEET/pruned/" {
  policy = "write"
}

# Payloads above 32 KiB, which it puts back if Consul has lost them.
key_prefix "agentd/FLEET/bodies/" {
  policy = "write"
}
