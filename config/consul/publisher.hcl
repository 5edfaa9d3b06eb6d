# For a person or job that runs `agentd publish` or `agentd log forget`, from any host.
#
#   sed 's/FLEET/production/' publisher.hcl | consul acl policy create -name agentd-publisher -rules -
#
# Whoever has it can have every handler of the fleet do what it does for a message. To let a job publish one name
# only, give it names/NAME, messages/NAME/ and pruned/NAME/ instead of the three prefixes; names/_fleet is to
# be read, and for the first message of a fleet to be written. Such a job does not sweep (see below).

key_prefix "agentd/FLEET/names/" {
  policy = "write"
}
key_prefix "agentd/FLEET/messages/" {
  policy = "write"
}
key_prefix "agentd/FLEET/pruned/" {
  policy = "write"
}

# Payloads above 32 KiB. Whoever publishes one sweeps those that no message has needed for a day, if it may read
# the messages of all names.
key_prefix "agentd/FLEET/bodies/" {
  policy = "write"
}

# For --node and --service, which nodes there are; for --wait, how far they are. In addition, --wait needs viewer.hcl
# to know which nodes are down, and --service needs service_prefix "" { policy = "read" }.
key_prefix "agentd/FLEET/nodes/" {
  policy = "read"
}
