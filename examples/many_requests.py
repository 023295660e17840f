"""Continuous batching: many requests share each pass, and their common prefix in the KV cache.

python examples/many_requests.py [MODEL.gguf]
"""

import sys
import time

import pytreellama as ptl

SYSTEM = {"role": "system", "content": "You are a helpful assistant. Answer in one sentence."}
QUESTIONS = [
    "What is the capital of Italy?",
    "Why is the sky blue?",
    "How many legs does a spider have?",
    "Who wrote Hamlet?",
    "What do bees make?",
    "What is two plus two?",
    "Where do penguins live?",
    "What is water made of?",
]

model = ptl.Model(sys.argv[1]) if len(sys.argv) > 1 else ptl.Model.default()

with ptl.Engine(model, n_seq_max=len(QUESTIONS)) as engine:
    begin = time.perf_counter()
    chats = [[SYSTEM, {"role": "user", "content": question}] for question in QUESTIONS]
    answers = engine.generate(chats, max_tokens=24, temperature=0)
    seconds = time.perf_counter() - begin

for question, answer in zip(QUESTIONS, answers, strict=True):
    print(f"{question:36} {answer.text!r}")
n_tokens = sum(len(answer.tokens) for answer in answers)
n_shared = sum(answer.stats.n_shared for answer in answers)
print(f"\n{n_tokens / seconds:.0f} tokens/s; {n_shared} prompt tokens came from the prefix cache")
