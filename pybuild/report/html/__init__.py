"""The report of one build: a page without scripts, its stylesheet and its pictures."""
