"""The llama.cpp context: batches, the KV cache, token trees and outputs."""
