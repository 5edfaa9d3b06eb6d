# For nodes that write the events they hear to the log (`fleet.relay`, on by default), in addition to node.hcl.
#
#   sed 's/FLEET/production/' relay.hcl | consul acl policy create -name agentd-relay -rules -
#
# Whoever holds this can write messages of any name, and so make every node do whatever its handlers do with one.
# Not every node has to be a relay, but a fleet needs several, since what none of them hears is lost: give this to
# the nodes you trust most.

# Heads and messages. Messages that have expired or been replaced are deleted in the same transaction.
key_prefix "agentd/FLEET/names/" {
  policy = "write"
}
key_prefix "agentd/FLEET/messages/" {
  policy = "write"
}

# Which events were pruned recently, so that none is written twice.
key_prefix "agentd/FLEET/pruned/" {
  policy = "write"
}

# Payloads above 32 KiB, which the node writes back if Consul has lost them.
key_prefix "agentd/FLEET/bodies/" {
  policy = "write"
}
