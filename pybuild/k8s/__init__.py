"""A build as a Pod: what a manifest says, and what is wrong with it."""
