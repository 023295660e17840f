"""Chat on the terminal; each turn prefills only what the KV cache does not hold yet.

python examples/chat.py [MODEL.gguf]
"""

import sys
from contextlib import suppress

import pytreellama as ptl

model = ptl.Model(sys.argv[1]) if len(sys.argv) > 1 else ptl.Model.default()

with ptl.Engine(model, n_cached_prefixes=2) as engine, suppress(EOFError):  # Ctrl-D
    messages: list[dict[str, str]] = []
    print("Write a message; an empty line ends the chat.")
    while question := input("> "):
        messages.append({"role": "user", "content": question})
        answer = ""
        for chunk in engine.stream(messages, max_tokens=256, temperature=0.7):
            answer += chunk.text
            print(chunk.text, end="", flush=True)
        messages.append({"role": "assistant", "content": answer})
        assert chunk.stats is not None  # the last chunk has them
        print(f"\n[{chunk.stats.n_shared} of {chunk.stats.n_prompt} prompt tokens were cached]")
