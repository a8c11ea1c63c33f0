"""A build as a job of a Jenkins controller: start it, follow it, stop it."""
