"""`python -m benchmarks` is `python -m benchmarks.peers`: the comparison with other builders."""

from __future__ import annotations

import sys

from benchmarks.peers import main

sys.exit(main(sys.argv[1:]))
