"""Models: GGUF files in memory, their vocabulary, Medusa heads and quantisation."""
