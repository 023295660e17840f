"""Sampling: parameters, the native stages, and the sampler that keeps state."""
