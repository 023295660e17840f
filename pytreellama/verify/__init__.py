"""Verification rules: which drafted nodes the target's own choices confirm."""

from __future__ import annotations

from pytreellama.verify.match import Verdict, match, match_greedy

__all__ = ["Verdict", "match", "match_greedy"]
