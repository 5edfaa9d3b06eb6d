"""One process in the cluster at a time: locks in Consul's KV, compatible with `consul lock`."""
