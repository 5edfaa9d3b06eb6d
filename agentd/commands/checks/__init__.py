"""What `agentd check` looks at, one module per neighbour. They change nothing."""
