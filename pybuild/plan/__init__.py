"""Which stages and steps run, in which order, under which cache keys: values, no effects."""
