# A person or job that publishes: `agentd publish` and `agentd log forget`, from any host.
#
#   sed 's/FLEET/production/' publisher.hcl | consul acl policy create -name agentd-publisher -rules -
#
# Whoever has it can have every handler of the fleet do what it does for a message. To let a job publish one name
# only, give it names/NAME, messages/NAME/ and pruned/NAME/ instead of the three prefixes.

key_prefix "agentd/FLEET/names/" {
  policy = "write"
}
key_prefix "agentd/FLEET/messages/" {
  policy = "write"
}
key_prefix "agentd/FLEET/pruned/" {
  policy = "write"
}

# Payloads above 32 KiB, and when bodies that nothing refers to were last swept.
key_prefix "agentd/FLEET/bodies/" {
  policy = "write"
}
key_prefix "agentd/FLEET/locks/" {
  policy = "write"
}

# Which formats the nodes understand; with --wait also what they make of the message, and who they are.
key_prefix "agentd/FLEET/nodes/" {
  policy = "read"
}
node_prefix "" {
  policy = "read"
}
service "agentd" {
  policy = "read"
}
