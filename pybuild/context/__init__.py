"""Where a build's files come from: a folder, or a git repository fetched into one."""
