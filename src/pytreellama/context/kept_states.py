"""How many states a context keeps behind the tokens of a chain: ``ContextParams.n_rs_seq``."""

from __future__ import annotations

from pytreellama.context.memory_check import available_bytes
from pytreellama.context.params import ContextParams
from pytreellama.errors import ContextError
from pytreellama.model.model import Model
from pytreellama.native import chain as native_chain
from pytreellama.native import tree as native_tree
from pytreellama.native.handle import Handle

_N_DEFAULT = 8  # longer chains are seldom accepted


def n_kept_states(model: Model, params: ContextParams, bare: Handle) -> int:
    """Number of states for each sequence; 0 for none.

    Args:
        bare: a context that keeps none.

    Raises:
        ContextError: states were asked for that this model cannot keep, or memory cannot hold.
    """
    if params.n_rs_seq == 0:
        return 0
    why_not = _why_not(model, params)
    if params.n_rs_seq is not None:
        if why_not is None:
            why_not = _lacking_memory(params.n_rs_seq, model, params, bare)
        if why_not is not None:
            raise ContextError(f"invalid n_rs_seq={params.n_rs_seq}: expected None or 0; {why_not}")
        return params.n_rs_seq
    n_states = min(_N_DEFAULT, params.n_ubatch - 1, params.n_batch - 1)
    if why_not is not None or n_states < 2 or native_tree.tree_refusal(bare) is None:
        return 0
    return 0 if _lacking_memory(n_states, model, params, bare) else n_states


def _why_not(model: Model, params: ContextParams) -> str | None:
    if not native_chain.is_supported(model.handle):
        return f"{model.architecture} has no recurrent state that can be rolled back"
    if model.n_swa > 0 and not params.swa_full:
        return "without swa_full the cache drops cells that a rollback needs"
    return None


def _lacking_memory(n_states: int, model: Model, params: ContextParams, bare: Handle) -> str | None:
    """What to say if the states do not fit; Linux would end the process."""
    needed = n_states * params.n_seq_max * native_chain.state_bytes(bare)
    available = available_bytes(model, params)
    if needed <= available:
        return None
    return f"the states take {needed / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are available"
