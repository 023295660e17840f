"""Verification rules: which drafted nodes to keep, and which tokens to emit.

match:        lossless for any tree and sampler: the target's own draws decide.
match_greedy: lossless: the same where the target takes its likeliest token.
rejection:    lossless in distribution for trees that were drawn: corrects the drafter's draws.
typical:      LOSSY: keeps what the target finds plausible, whatever it would have drawn.
"""

from __future__ import annotations

from pytreellama.verify.chance import Chance, UniformChance
from pytreellama.verify.distribution import Distribution, Rows
from pytreellama.verify.match import match, match_greedy
from pytreellama.verify.rejection import rejection
from pytreellama.verify.rule import VerificationRule, check_verdict
from pytreellama.verify.typical import typical
from pytreellama.verify.verdict import Verdict

__all__ = [
    "Chance",
    "Distribution",
    "Rows",
    "UniformChance",
    "Verdict",
    "VerificationRule",
    "check_verdict",
    "match",
    "match_greedy",
    "rejection",
    "typical",
]
