"""EAGLE-3 heads: trained on what a model writes itself, for the drafter ``eagle3``."""
