"""The flags of all commands, a module a group."""
