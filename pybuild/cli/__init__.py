"""The command lines: kaniko's `executor` and `warmer`, and `pybuild`'s own."""
