"""Jobs: the kinds of requests that the scheduler runs together, one file each."""

from pytreellama.engine.jobs.embed import EmbedJob
from pytreellama.engine.jobs.evaluation import EvaluationJob
from pytreellama.engine.jobs.generate import GenerateJob
from pytreellama.engine.jobs.job import Job, JobLimits, ReadyJobs
from pytreellama.engine.jobs.score import ScoreJob
from pytreellama.engine.jobs.text_logprobs import TextLogprobsJob

__all__ = [
    "EmbedJob",
    "EvaluationJob",
    "GenerateJob",
    "Job",
    "JobLimits",
    "ReadyJobs",
    "ScoreJob",
    "TextLogprobsJob",
]
