"""Planning: the cost of passes, and which draft nodes pay off.

No native code is imported here: a policy is a function of drafts, a cost curve and a clock.
"""

from pytreellama.plan.budget import DrafterBudget
from pytreellama.plan.choice import Choice, choose
from pytreellama.plan.cost import KNOTS, N_SIZES_KNOWN, CostCurve, PassCost
from pytreellama.plan.gate import DraftGate
from pytreellama.plan.planner import Plan, Planner
from pytreellama.plan.policy import DraftPolicy, PlannedRequest, RequestDrafters
from pytreellama.plan.text_cost import AttentionShare, TextCost
from pytreellama.tree.candidates import Candidates

__all__ = [
    "KNOTS",
    "N_SIZES_KNOWN",
    "AttentionShare",
    "Candidates",
    "Choice",
    "CostCurve",
    "DraftGate",
    "DraftPolicy",
    "DrafterBudget",
    "PassCost",
    "Plan",
    "PlannedRequest",
    "Planner",
    "RequestDrafters",
    "TextCost",
    "choose",
]
