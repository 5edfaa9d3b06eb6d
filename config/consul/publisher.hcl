# For a person or job that runs `agentd publish` or `agentd log forget`, from any host.
#
#   sed 's/FLEET/production/' publisher.hcl | consul acl policy create -name agentd-publisher -rules -
#
# Whoever holds this can make every handler in the fleet do whatever it does with a message, unless the nodes have
# `trust: {require: signed}`. Then that takes the key of a publisher as well (docs/trust.md); whoever has only this
# token, or that of a relay, can delete messages, but not make a node do anything. `agentd keys resign` needs the same
# rights as `agentd publish`.
#
# To let a job publish only one name, replace the first three prefixes with names/NAME, messages/NAME/ and pruned/NAME/, and add read on
# names/_fleet (write, if the job publishes the fleet's very first message) and on names/agentd.freeze, so that it is
# told when the fleet is frozen. Such a job deletes no old payloads. `agentd freeze` and `agentd thaw` publish under
# the name agentd.freeze.

key_prefix "agentd/FLEET/names/" {
  policy = "write"
}
key_prefix "agentd/FLEET/messages/" {
  policy = "write"
}
key_prefix "agentd/FLEET/pruned/" {
  policy = "write"
}

# Payloads above 32 KiB. Publishing one also deletes those that no message has needed for a day, provided that the
# token may read the messages of all names.
key_prefix "agentd/FLEET/bodies/" {
  policy = "write"
}

# For signed messages, whether all nodes understand them; for --node and --service, which nodes there are; for --wait
# and --canary, how far they are. In addition, these two need viewer.hcl to know which nodes are down, and --service needs
# service_prefix "" { policy = "read" }.
key_prefix "agentd/FLEET/nodes/" {
  policy = "read"
}
