"""How a RUN gets its root filesystem and is kept from ours. Imports nothing: the runner, a process
of its own that has to start fast, is below this package too."""
