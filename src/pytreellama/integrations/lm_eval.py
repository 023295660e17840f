"""Adapter for lm-evaluation-harness: the model ``pytreellama``.

python -m pytreellama.integrations.lm_eval --model_args model=model.gguf --tasks hellaswag
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from pytreellama.chat.template import ChatTemplate
from pytreellama.engine import Engine
from pytreellama.model.model import Model
from pytreellama.model.source import source_path

_MAX_NEW_TOKENS = 256
_MAX_TOGETHER = 64
"""Continuations of one context that share a pass."""


@register_model("pytreellama")
class PyTreeLlamaLM(LM):  # type: ignore[misc]
    """A GGUF model for the harness.

    Args:
        model: as ``-m`` on the command line; None for the default model.
        n_ctx: tokens of the KV cache; None for the default.
        n_seq_max: requests that generate at the same time.
        n_threads: threads of a pass.
        drafter: of generated answers.
        options: what the harness gives every model (``batch_size``, ``device``): not used.
    """

    def __init__(
        self,
        model: str | None = None,
        n_ctx: int | str | None = None,
        n_seq_max: int | str = 8,
        n_threads: int | str | None = None,
        drafter: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__()
        sizes = {"n_ctx": n_ctx, "n_seq_max": n_seq_max, "n_threads": n_threads}
        given: dict[str, Any] = {
            name: int(value) for name, value in sizes.items() if value is not None
        }
        with Model(source_path(model)) as loaded:
            self._engine = Engine(loaded, drafter, **given)
        self._vocab = self._engine.vocab

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether it is the greedy one.

        Neighbours with the same context are one tree, in one pass.
        """
        pairs = [self._pair(*request.args) for request in requests]
        found: list[tuple[float, bool]] = []
        for context, group in groupby(pairs, key=lambda pair: pair[0]):
            continuations = [continuation for _, continuation in group]
            for begin in range(0, len(continuations), _MAX_TOGETHER):
                part = continuations[begin : begin + _MAX_TOGETHER]
                scores = self._engine.score(context, part)
                found += [(score.logp, score.is_greedy) for score in scores]
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of each whole text, in windows of the context's size."""
        return [sum(self._windows(*request.args)) for request in requests]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue each context until one of its stop strings."""
        started = [
            self._engine.submit(context, streams=False, **_asked(options))
            for context, options in (request.args for request in requests)
        ]
        return [generation.result().text for generation in started]

    # -- chats

    @property
    def tokenizer_name(self) -> str:
        """Names the prompts that the harness caches."""
        return self._engine.model.path.stem

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The model's own template."""
        return self._engine.model.chat_template or ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as the model's template renders it."""
        template = ChatTemplate.of_model(self._engine.model)
        return template.render(chat_history, add_generation_prompt=add_generation_prompt)

    # -- tokens

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of a context and its continuation, tokenised together and then cut.

        Spaces at the end of a context belong to the continuation, as in the harness's adapters.
        """
        n_spaces = len(context) - len(context.rstrip())
        if n_spaces:
            continuation = context[-n_spaces:] + continuation
            context = context[:-n_spaces]
        if not context:
            return [self._first()], self._vocab.encode(continuation, add_special=False)
        ids = self._engine.encode_prompt(context)
        whole = self._engine.encode_prompt(context + continuation)
        return ids, whole[len(ids) :] or self._vocab.encode_continuation(continuation)

    def _windows(self, text: str) -> Iterator[float]:
        """Log-probability of each part of a text; every token is predicted once."""
        ids = self._vocab.encode(text, add_special=False)
        n_window = min(self._engine.context.n_text_max, self._engine.context.n_nodes_max) // 2
        for begin in range(0, len(ids), n_window):
            before = ids[max(begin - n_window, 0) : begin] or [self._first()]
            (score,) = self._engine.score(before, [ids[begin : begin + n_window]])
            yield score.logp

    def _first(self) -> int:
        """What stands before an empty context."""
        for token in (self._vocab.bos, self._vocab.eos):
            if token is not None:
                return token
        return 0


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    """A request's options from those of the harness."""
    until = options.get("until", ())
    asked: dict[str, Any] = {
        "stop": (until,) if isinstance(until, str) else tuple(stop for stop in until if stop),
        "max_tokens": options.get("max_gen_toks", _MAX_NEW_TOKENS),
        "temperature": 0.0,
    }
    if options.get("do_sample", options.get("temperature", 0.0) > 0):
        names = ("temperature", "top_k", "top_p", "min_p")
        asked |= {name: options[name] for name in names if name in options}
    return asked


def main() -> None:
    """Run the harness with this model."""
    from lm_eval.__main__ import cli_evaluate

    sys.argv[1:1] = ["--model", "pytreellama"]
    cli_evaluate()


if __name__ == "__main__":
    main()
