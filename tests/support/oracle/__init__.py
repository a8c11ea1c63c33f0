"""Today's BuildKit as the oracle of the build cases: what it makes of them is what is right."""
