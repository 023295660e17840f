"""Answers prompts with llama-cpp-python or transformers; ``peer_python.py`` starts it.

    python peer_worker.py SETTINGS

Runs in an environment that holds the peer and nothing of ours. SETTINGS is a JSON object; then each
line of the input is a prompt's tokens, and each line of the output the answer's, with how many of
them came after the first moment that one was there, and the seconds since then.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Told = dict[str, Any]
Answerer = Callable[[list[int]], Told]


def main() -> None:
    settings = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not come between
    make = {"llama-cpp-python": llama_cpp_python, "transformers": transformers}[settings["peer"]]
    answer = make(settings)
    print(json.dumps("ready"), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=replies, flush=True)


class Clock:
    """When tokens came."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._n_first = 0
        self._first_s = self._last_s = 0.0

    def add(self, tokens: list[int]) -> None:
        self._last_s = time.perf_counter()
        if not self.tokens:
            self._first_s, self._n_first = self._last_s, len(tokens)
        self.tokens += tokens

    def told(self) -> Told:
        return {
            "tokens": self.tokens,
            "n_timed": len(self.tokens) - self._n_first,
            "seconds": self._last_s - self._first_s,
        }


def llama_cpp_python(settings: Told) -> Answerer:
    from llama_cpp import Llama
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    n_lookup = settings["n_lookup"]
    llama = Llama(
        settings["model"],
        n_ctx=settings["n_ctx"],
        n_threads=settings["n_threads"],
        n_threads_batch=settings["n_threads"],
        draft_model=LlamaPromptLookupDecoding(num_pred_tokens=n_lookup) if n_lookup else None,
        logits_all=bool(n_lookup),  # else it has no room for the logits of a long prompt
        verbose=False,
    )

    def answer(prompt: list[int]) -> Told:
        clock = Clock()
        llama.reset()
        for token in llama.generate(prompt, temp=0.0):
            clock.add([token])
            if token in settings["ends"] or len(clock.tokens) == settings["n_tokens"]:
                break
        return clock.told()

    return answer


def transformers(settings: Told) -> Answerer:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.generation.streamers import BaseStreamer

    class Streamer(BaseStreamer):  # type: ignore[misc]
        """The prompt comes first, then the tokens of each step."""

        def __init__(self) -> None:
            self.clock = Clock()
            self._is_prompt = True

        def put(self, value: torch.Tensor) -> None:
            if not self._is_prompt:
                self.clock.add(value.reshape(-1).tolist())
            self._is_prompt = False

        def end(self) -> None:
            pass

    torch.set_num_threads(settings["n_threads"])
    path = Path(settings["model"])
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name)
    lookup = {"prompt_lookup_num_tokens": settings["n_lookup"]} if settings["n_lookup"] else {}

    def answer(prompt: list[int]) -> Told:
        streamer = Streamer()
        ids = torch.tensor([prompt])
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=settings["n_tokens"],
            do_sample=False,
            eos_token_id=settings["ends"],
            pad_token_id=settings["ends"][0],
            streamer=streamer,
            **lookup,
        )
        return streamer.clock.told()

    return answer


if __name__ == "__main__":
    main()
