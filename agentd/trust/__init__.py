"""Who may send what: messages that a publisher signs and, where they are secret, seals for the fleet."""
