"""Made-up benchmarks: results without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from pytreellama.bench.planning import Planning
from pytreellama.bench.prompts import BenchPrompt
from pytreellama.bench.results import BenchAnswer, Results, Totals
from pytreellama.bench.runs import BenchSettings, Measured

FACTS: dict[str, Any] = {
    "version": "0.1.0",
    "python": "3.12 (/home/someone/python)",
    "platform": "Linux",
    "build": {"commit": "0c1e57098", "backends": ["cpu"], "native_cpu": True},
    "llama_cpp": "1",
    "cpu_features": ["AVX2"],
    "devices": [{"name": "CPU", "description": "a CPU", "kind": "cpu", "free": 0, "total": 0}],
    "machine": {
        "n_cores": 2,
        "n_logical_cores": 4,
        "cpu_quota": None,
        "load": 0.1,
        "memory": 2**33,
        "memory_available": 2**32,
    },
    "model": {
        "path": "/home/someone/a.gguf",
        "name": "a model",
        "architecture": "llama",
        "file_type": "Q4_1",
        "size": 2**27,
        "n_params": 10**8,
        "weight_buffers": {"CPU": 90.0},
        "devices": [],
        "is_on_gpu": False,
        "n_layer": 2,
        "n_embd": 64,
        "n_head": 4,
        "n_head_kv": 2,
        "n_swa": 0,
        "n_ctx_train": 512,
        "n_vocab": 320,
        "has_chat_template": True,
        "can_branch": True,
        "draft_shape": "trees",
        "node_bytes": 0,
        "medusa_heads": None,
    },
}

Speed = Callable[[str, int, int], float]
"""Tokens a second of a drafter's answer to a prompt in a repeat."""


def stats(n_tokens: int = 10, n_steps: int = 5, decode_s: float = 1.0, **more: Any) -> Any:
    """What an engine's ``Stats`` tell."""
    zeros = dict.fromkeys(Totals.__dataclass_fields__, 0.0)
    known = zeros | {"n_tokens": n_tokens, "n_steps": n_steps, "decode_s": decode_s} | more
    return SimpleNamespace(tree_sizes=[2] * n_steps, to_dict=lambda: dict(known), **known)


def results(
    drafters: Sequence[str] = ("none", "suffix", "auto"),
    categories: Sequence[str] = ("story", "code", "story"),
    n_repeats: int = 2,
    speed: Speed = lambda drafter, prompt, repeat: 10.0,
    tokens: Callable[[str, int], tuple[int, ...]] = lambda drafter, prompt: (prompt,),
) -> Results:
    """An answer of each drafter to a prompt of each category in each repeat; 10 tokens each."""
    made = Results(drafters)
    for repeat in range(n_repeats):
        for prompt, category in enumerate(categories):
            for drafter in drafters:
                cost = stats(decode_s=10 / speed(drafter, prompt, repeat), target_s=0.5)
                ids = tokens(drafter, prompt)
                made.add(BenchAnswer(repeat, prompt, category, drafter, ids, cost))
    return made


def measured(made: Results, texts: Sequence[str], planning: Planning | None = None) -> Measured:
    """A whole benchmark of these texts."""
    of_prompt = {answer.prompt: answer.category for answer in made.answers}
    prompts = tuple(BenchPrompt(text, of_prompt[i], i + 1) for i, text in enumerate(texts))
    drafters = tuple(name for name in made.drafters if name != "none")
    return Measured(BenchSettings(drafters, 10, made.n_repeats, 512, 2), prompts, made, planning)


def planning() -> Planning:
    """Three hundred guesses that came true about as often as they were called."""
    made = Planning(n_text=1024)
    for i in range(300):
        p = (i % 100) / 100
        made.calibration.add(p, came_true=i * 7919 % 100 < 100 * p)
    made.pass_s = [0.0, *(0.01 + 0.001 * n for n in range(64))]
    made.pass_behind_text_s = [s + 0.005 for s in made.pass_s]
    made.drafters = {"suffix": {"cost_s": 1e-4, "gain_s": 1e-3, "n_asked": 9, "pays": True}}
    return made
