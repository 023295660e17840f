"""Medusa heads: trained on what a model writes itself, for the drafter ``medusa``."""
