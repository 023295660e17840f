"""Best of n: fork one prompt into n samples, and keep the one that the model likes best.

Forks share the prompt's cells in the KV cache, and all run in the same passes.

    python examples/best_of_n.py [MODEL.gguf]
"""

import sys

import pytreellama as ptl

N = 6

model = ptl.Model(sys.argv[1]) if len(sys.argv) > 1 else ptl.Model.default()

with ptl.Engine(model, n_seq_max=N) as engine:
    prompt = "Here is a short poem about the sea:\n\n"
    first = engine.submit(prompt, temperature=0.9, seed=0, max_tokens=48, logprobs=0)
    samples = [first, *(first.fork(seed=seed) for seed in range(1, N))]
    texts = [sample.result() for sample in samples]

ranked = []
for text in texts:
    assert text.logprobs is not None  # logprobs=0: of the written tokens alone
    ranked.append((sum(token.logp for token in text.logprobs) / len(text.logprobs), text.text))
ranked.sort(reverse=True)

for mean_logp, poem in ranked:
    print(f"{mean_logp:6.2f}  {poem.strip().splitlines()[0][:70]}")
print(f"\nThe best of {N}:\n{ranked[0][1]}")
