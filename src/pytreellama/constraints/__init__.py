"""Constraints on the next token: GBNF grammars and JSON schemas, by llguidance."""
