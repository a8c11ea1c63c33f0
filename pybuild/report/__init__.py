"""Shows events to people and programs: progress on a terminal, plain lines, JSON lines."""
