"""Trees of models with a recurrent state: a node has the bits of its path alone."""
