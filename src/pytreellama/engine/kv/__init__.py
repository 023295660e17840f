"""What the engine does with the KV cache: prefix cache, swap, context shift."""
