"""Log-probabilities of a prompt's own tokens, in OpenAI's older form and in vLLM's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pytreellama.engine.jobs import TextLogprobsJob
from pytreellama.model.vocab import Detokenizer, Vocab
from pytreellama.serve.answers import PromptLogprob, TextLogprobs
from pytreellama.serve.callers import Caller
from pytreellama.serve.evaluation_routes import evaluate
from pytreellama.serve.logprobs import finite, name_of, named_top
from pytreellama.serve.service import Service

PromptLogprobs = list[dict[str, PromptLogprob] | None]


async def read_prompts(
    service: Service, prompts: Sequence[list[int]], n_top: int, caller: Caller
) -> list[TextLogprobsJob]:
    """Let the model read prompts; each job has the log-probabilities of one.

    Args:
        n_top: the likeliest tokens that are reported at each position.

    Raises:
        APIError: what the engine refuses, or too much at once.
    """
    jobs = []
    for prompt in prompts:
        job = await caller.run(partial(service.engine.engine.text_logprobs_job, prompt, n_top))
        await evaluate(service, job, caller)
        jobs.append(job)
    return jobs


def echoed_logprobs(
    vocab: Vocab, prompt: Sequence[int], text: str, job: TextLogprobsJob, n_top: int
) -> TextLogprobs:
    """Of a prompt that stands before its answer; its first token has none.

    Args:
        text: the prompt as it is echoed.
        n_top: the likeliest tokens that are reported, at most as many as the job's.
    """
    tops = [named_top(vocab, one, one.top[:n_top]) for one in job.logprobs]
    return TextLogprobs(
        tokens=[name_of(vocab, token) for token in prompt],
        token_logprobs=[None, *(finite(one.logp) for one in job.logprobs)],
        top_logprobs=[None, *tops] if n_top else None,
        text_offset=_offsets(vocab, prompt, text),
    )


def _offsets(vocab: Vocab, prompt: Sequence[int], text: str) -> list[int]:
    """The character in which each token begins; BOS takes none unless the text names it."""
    detokenizer = Detokenizer(vocab)
    offsets, n_read = [], 0
    for i, token in enumerate(prompt):
        offsets.append(n_read)
        n_read += len(detokenizer.add((token,)))
        name = name_of(vocab, token)
        if vocab.is_control(token) and (i > 0 or text.startswith(name)):
            n_read += len(name)
    # the space that some vocabularies put before a text
    n_added = int(n_read == len(text) + 1)
    return [min(max(offset - n_added, 0), len(text)) for offset in offsets]


def joined(first: TextLogprobs, then: TextLogprobs | None) -> TextLogprobs:
    """Log-probabilities of a prompt and of what was written after it."""
    if then is None:
        return first
    tops: list[dict[str, float] | None] | None = None
    if first.top_logprobs is not None or then.top_logprobs is not None:
        tops = [
            *(first.top_logprobs or [None] * len(first.tokens)),
            *(then.top_logprobs or [None] * len(then.tokens)),
        ]
    return TextLogprobs(
        tokens=first.tokens + then.tokens,
        token_logprobs=first.token_logprobs + then.token_logprobs,
        top_logprobs=tops,
        text_offset=first.text_offset + then.text_offset,
    )


def ranked_logprobs(vocab: Vocab, job: TextLogprobsJob, n_top: int) -> PromptLogprobs:
    """vLLM's form: by token id, the likeliest tokens and the prompt's own, with their ranks."""
    told: PromptLogprobs = [None]
    for one, rank in zip(job.logprobs, job.ranks.tolist(), strict=True):
        ranked = {
            str(token): _ranked(vocab, token, logp, i)
            for i, (token, logp) in enumerate(one.top[:n_top], 1)
        }
        ranked.setdefault(str(one.token), _ranked(vocab, one.token, one.logp, rank))
        told.append(ranked)
    return told


def _ranked(vocab: Vocab, token: int, logp: float, rank: int) -> PromptLogprob:
    return PromptLogprob(logprob=finite(logp), rank=rank, decoded_token=vocab.piece_text(token))
