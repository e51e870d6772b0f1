"""How a command reaches a machine."""
