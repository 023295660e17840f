"""Evaluations: the requests of an engine that score and embed texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytreellama.engine.completion import TokenLogp
from pytreellama.engine.generation import Generation
from pytreellama.engine.jobs import EmbedJob, EncodeJob, Job, RankJob, ScoreJob, TextLogprobsJob
from pytreellama.engine.jobs.factory import JobFactory
from pytreellama.engine.jobs.pooling import Pooling
from pytreellama.engine.jobs.score import Score
from pytreellama.engine.prompts import Continuation, Prompt, as_list
from pytreellama.errors import ContextError

if TYPE_CHECKING:
    from pytreellama.engine.loop import Loop

Float32 = NDArray[np.float32]


class Evaluations:
    """A part of ``Engine``: methods that evaluate texts and generate none."""

    _jobs: JobFactory
    _loop: Loop

    def score(self, prompt: Prompt, continuations: Sequence[Continuation]) -> list[Score]:
        """Log-probabilities of several continuations of one prompt.

        All are evaluated as one tree in one pass: common prefixes are computed once.

        Args:
            prompt: text, token ids or chat messages.
            continuations: texts, appended to the prompt as they are (mind the space), or token
                ids.

        Returns:
            A ``Score`` for each, in the same order.

        Raises:
            RequestError, VocabError, ChatTemplateError: an invalid request.
        """
        job = self.score_job(prompt, continuations)
        self._evaluate([job])
        return job.scores

    def text_logprobs(self, text: Prompt, top: int = 0) -> list[TokenLogp]:
        """Log-probabilities of a text's own tokens, each given those before it.

        Args:
            text: text, token ids or chat messages; of any length that the context holds.
            top: how many of the likeliest tokens at each position are returned too, at most 100.

        Returns:
            A ``TokenLogp`` for each token but the first, which nothing comes before.

        Raises:
            RequestError, VocabError, ChatTemplateError: an invalid request.
        """
        job = self.text_logprobs_job(text, top)
        self._evaluate([job])
        return job.logprobs

    def embed(self, texts: Sequence[Prompt], pooling: Pooling | None = None) -> Float32:
        """Vectors of texts: hidden states after the output norm, pooled.

        Of decoders and of encoders (BERT and its like), whose texts share passes.

        Args:
            texts: each a text, token ids or chat messages.
            pooling: "mean" of all tokens' states, the "last" token's, or the first one's ("cls");
                by default what the model's file says, otherwise "mean".

        Returns:
            float32, shape (n_texts, n_embd_out), each of length 1.

        Raises:
            RequestError, VocabError, ChatTemplateError: an invalid request.
        """
        jobs = [self.embed_job(text, pooling) for text in as_list(texts, "texts")]
        self._evaluate(jobs)
        return np.array([job.embedding for job in jobs])

    def rank(self, query: str, documents: Sequence[str]) -> Float32:
        """How relevant documents are to a query, by an encoder with a classifier (a reranker).

        Args:
            query: text.
            documents: texts.

        Returns:
            float32, shape (n_documents,): the classifier's first output for each pair; more is
            more relevant.

        Raises:
            RequestError: the model is no reranker, or a pair is too long for it.
            VocabError: a text is not valid Unicode.

        Example:
            >>> engine.rank("What is a panda?", ["A bear of China.", "A king of France."])
            array([ 5.1, -9.8], dtype=float32)
        """
        jobs = [self.rank_job(query, document) for document in as_list(documents, "documents")]
        self._evaluate(jobs)
        return np.array([job.scores[0] for job in jobs], np.float32)

    def _evaluate(self, jobs: Sequence[Job]) -> None:
        self._loop.run(jobs)
        require_evaluated(jobs)

    def score_job(self, prompt: Prompt, continuations: Sequence[Continuation]) -> ScoreJob:
        """The job that ``score`` runs, for ``submit_job``; raises as ``score``."""
        self._loop.require_open()
        return self._jobs.score(prompt, continuations)

    def text_logprobs_job(self, text: Prompt, top: int = 0) -> TextLogprobsJob:
        """The job that ``text_logprobs`` runs, for ``submit_job``; raises as ``text_logprobs``."""
        self._loop.require_open()
        return self._jobs.text_logprobs(text, top)

    def embed_job(self, text: Prompt, pooling: Pooling | None = None) -> EmbedJob | EncodeJob:
        """The job that ``embed`` runs for each text, for ``submit_job``; raises as ``embed``."""
        self._loop.require_open()
        return self._jobs.embed(text, pooling)

    def rank_job(self, query: str, document: str) -> RankJob:
        """The job that ``rank`` runs for each document, for ``submit_job``; raises as ``rank``."""
        self._loop.require_open()
        return self._jobs.rank(query, document)

    def submit_job(self, job: Job, *, wait: bool = True) -> Generation:
        """Queue an evaluation; the job has the result once the generation is done.

        Raises:
            RequestError: the job is too large for this engine.
            QueueFullError: the queue is full, and ``wait`` is False.
        """
        return self._loop.submit(job, wait, streams=False)


def require_evaluated(jobs: Iterable[Job]) -> None:
    """Raise ContextError for a job that ended before all of it was evaluated."""
    if any(job.finish_reason in ("cancelled", "context") for job in jobs):
        raise ContextError("the evaluation ended early: the engine was closed, or had no room")
