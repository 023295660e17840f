"""Jobs of encoders: texts that are read whole, in a pass that they share."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from pytreellama.engine.jobs.job import Job, JobLimits, ReadyJobs
from pytreellama.engine.jobs.pooling import Float32, Pooling, pooled, unit_vector
from pytreellama.engine.token_state import Int32
from pytreellama.errors import RequestError


class EncoderJob(Job):
    """A text that an encoder reads whole. Subclasses say what is made of the pass.

    Attributes:
        wants_scores: the pass is to end in the model's classifier.
    """

    wants_scores: ClassVar[bool] = False

    @abstractmethod
    def take(self, values: Float32) -> None:
        """Finish with what the pass left of this text: hidden states, or scores."""

    def check(self, limits: JobLimits) -> None:
        """See Job."""
        if len(self.state) > limits.n_text_max:
            raise RequestError(
                f"the text has {len(self.state)} tokens, and this encoder reads at most "
                f"{limits.n_text_max}; shorten it, or, if the model was trained for more, make the "
                "engine with a larger n_ctx"
            )

    def join(self, ready: ReadyJobs) -> None:
        """See Job."""
        ready.for_encoder.append(self)


class EncodeJob(EncoderJob):
    """Pools the hidden states of a text.

    Args:
        tokens: of the text, as ``Job``'s prompt.
        pooling: "mean" of all tokens' states, the "last" token's, or the first one's ("cls").

    Attributes:
        embedding: float32, shape (n_embd_out,), of length 1, once the job has finished.
    """

    def __init__(self, tokens: Int32, pooling: Pooling) -> None:
        super().__init__(tokens)
        self._pooling = pooling
        self.embedding: Float32 = np.zeros(0, np.float32)

    def take(self, values: Float32) -> None:
        """See EncoderJob."""
        self.embedding = unit_vector(pooled(values, self._pooling))
        self.finish("stop")


class RankJob(EncoderJob):
    """What a classifier says of a text, as of a query with a document.

    Attributes:
        scores: float32, shape (n_class,), once the job has finished.
    """

    wants_scores = True

    def __init__(self, tokens: Int32) -> None:
        super().__init__(tokens)
        self.scores: Float32 = np.zeros(0, np.float32)

    def take(self, values: Float32) -> None:
        """See EncoderJob."""
        self.scores = values.copy()
        self.finish("stop")
