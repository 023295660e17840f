"""Stream a text as it is written, and report what speculation brought.

python examples/stream.py [MODEL.gguf]
"""

import sys

import pytreellama as ptl

LINES = "The quick brown fox jumps over the lazy dog.\n" * 2  # repetition is easy to draft

model = ptl.Model(sys.argv[1]) if len(sys.argv) > 1 else ptl.Model.default()

with ptl.Engine(model) as engine:
    for chunk in engine.stream(LINES, max_tokens=64):
        print(chunk.text, end="", flush=True)  # a chunk holds the tokens of one step

    stats = chunk.stats
    assert stats is not None  # the last chunk has them
    print(
        f"\n\n{stats.n_tokens} tokens in {stats.n_steps} passes of the model: "
        f"{stats.tokens_per_step:.2f} tokens per pass, {chunk.finish_reason=}"
    )
