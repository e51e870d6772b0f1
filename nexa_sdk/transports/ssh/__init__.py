"""A machine behind SSH: its address, its keys, the login, one connection, and commands over it."""
