"""LlamaWriter: puts what the engine writes into llama-server's own form."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from pydantic import BaseModel

from pytreellama.engine import Chunk
from pytreellama.serve.protocols.llama_answers import (
    LlamaCompletion,
    LlamaCompletions,
    LlamaPiece,
    probabilities,
    stop_type_of,
)
from pytreellama.serve.request_queue import Answer, AnswerOptions, timings_of
from pytreellama.serve.service import Service
from pytreellama.serve.stream_forms import Event


class LlamaWriter:
    """Answers to one prompt or several.

    Args:
        asked: what the answers are asked for.
        answers: to each prompt one.
        returns_tokens: whole answers have token ids too.
    """

    def __init__(
        self,
        service: Service,
        asked: AnswerOptions,
        answers: Sequence[Answer],
        *,
        returns_tokens: bool,
    ) -> None:
        self._service = service
        self._asked = asked
        self.answers = answers
        self._returns_tokens = returns_tokens
        self._vocab = service.engine.engine.vocab
        self._n_written = [0] * len(answers)
        self._has_break = [False] * len(answers)

    async def whole(self) -> BaseModel:
        """See Writer."""
        chunks = await self._service.queue.whole(self.answers)
        texts = [self._last(a, chunk) for a, chunk in zip(self.answers, chunks, strict=True)]
        return LlamaCompletions(texts if len(texts) > 1 else texts[0])

    async def events(self) -> AsyncGenerator[Event]:
        """See Writer. A text's last event has no text of its own."""
        async for answer, chunk in self._service.queue.pieces(self.answers):
            progress = answer.progress.take() if answer.progress else None
            if chunk.text or chunk.tokens or progress:
                piece = LlamaPiece(**self._common(answer, chunk))
                piece.prompt_progress = progress
                yield piece.model_dump()
            if chunk.finish_reason is not None:
                rest = Chunk(
                    "",
                    (),
                    None,
                    chunk.finish_reason,
                    chunk.stats,
                    chunk.seed,
                    chunk.stop_string,
                )
                yield self._last(answer, rest, is_streamed=True).model_dump()

    def _common(self, answer: Answer, chunk: Chunk) -> dict[str, Any]:
        self._n_written[answer.index] += len(chunk.tokens)
        self._has_break[answer.index] |= "\n" in chunk.text
        return {
            "index": answer.index,
            "content": chunk.text,
            "tokens": list(chunk.tokens),
            "tokens_predicted": self._n_written[answer.index],
            "tokens_evaluated": len(self._asked.prompts[answer.index]),
            "completion_probabilities": probabilities(self._vocab, chunk.logprobs),
        }

    def _last(self, answer: Answer, chunk: Chunk, *, is_streamed: bool = False) -> LlamaCompletion:
        prompt = self._asked.prompts[answer.index]
        values = self._common(answer, chunk)
        if not (is_streamed or self._returns_tokens):
            values["tokens"] = []
        assert chunk.stats is not None
        return LlamaCompletion(
            **values,
            model=self._service.settings.model_name,
            prompt=self._vocab.decode(prompt, special=True),
            generation_settings=self._settings(chunk.seed),
            has_new_line=self._has_break[answer.index],
            stop_type=stop_type_of(chunk),
            stopping_word=chunk.stop_string or "",
            tokens_cached=len(prompt) + self._n_written[answer.index],
            timings=timings_of([chunk.stats]),
        )

    def _settings(self, seed: int | None) -> dict[str, Any]:
        hidden = ("on_step", "on_prefill", "grammar", "json_schema", "logit_bias", "seed")
        options = {name: v for name, v in self._asked.options.items() if name not in hidden}
        return options | {"n_predict": options["max_tokens"], "seed": seed}
