"""What `agentd check` looks at, one module a neighbour. They only look, and change nothing."""
