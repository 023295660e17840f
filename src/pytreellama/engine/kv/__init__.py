"""The engine's use of the KV cache: prefix cache, prefix sharing, swapping, context shift."""
