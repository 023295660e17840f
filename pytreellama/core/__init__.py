"""llama.cpp's nouns with Python's manners: Model, Vocab, Context, Batch, Memory, Sampler."""
