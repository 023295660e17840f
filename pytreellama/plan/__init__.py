"""Planning: what a pass costs, and which guesses are worth it.

No native code is imported here: a planner is a function of trees, a curve and estimates.
"""

from pytreellama.plan.choice import Choice, choose
from pytreellama.plan.cost import KNOTS, N_SIZES_KNOWN, CostCurve, PassCost
from pytreellama.plan.planner import Plan, Planner
from pytreellama.plan.text_cost import AttentionShare, TextCost
from pytreellama.plan.vigilance import Vigilance
from pytreellama.plan.worth import Worth
from pytreellama.tree.guesses import Guesses

__all__ = [
    "KNOTS",
    "N_SIZES_KNOWN",
    "AttentionShare",
    "Choice",
    "CostCurve",
    "Guesses",
    "PassCost",
    "Plan",
    "Planner",
    "TextCost",
    "Vigilance",
    "Worth",
    "choose",
]
