"""Write a drafter: it observes the text and proposes a tree of what may follow.

This one has learned a list of phrases, and proposes the rest of each phrase that has begun. The
text stays the model's own, whatever a drafter proposes.

    python examples/custom_drafter.py [MODEL.gguf]
"""

import sys
from collections.abc import Sequence

import pytreellama as ptl
from pytreellama.draft import Tokens

PHRASES = [" the United States of America", " New York City", " as soon as possible"]


class Phrases:
    """Proposes the rest of known phrases. One object per request.

    Args:
        phrases: token ids of each.
    """

    name = "phrases"

    def __init__(self, phrases: Sequence[list[int]]) -> None:
        self._phrases = phrases
        self._tail: list[int] = []

    def observe(self, tokens: Tokens) -> None:
        """The prompt first, then each accepted run of tokens."""
        self._tail = [*self._tail, *map(int, tokens)][-8:]

    def propose(self, n_nodes: int) -> ptl.TokenTree:
        """A tree of at most ``n_nodes`` nodes; an empty one is plain decoding."""
        rests = [
            phrase[begun:]
            for phrase in self._phrases
            for begun in range(1, len(phrase))
            if phrase[:begun] == self._tail[-begun:]
        ]
        tree = ptl.TokenTree.from_paths(rests) if rests else ptl.TokenTree.empty()
        tree = tree.truncate(n_nodes)
        return tree.with_p([0.5 ** (depth + 1) for depth in tree.depths])  # of the whole path

    def reset(self) -> None:
        """The next ``observe`` begins a new text."""
        self._tail = []


model = ptl.Model(sys.argv[1]) if len(sys.argv) > 1 else ptl.Model.default()
phrases = [model.vocab.encode(phrase, add_special=False) for phrase in PHRASES]
prompt = "Washington is the capital of the United States"

with ptl.Engine(model, "none") as engine:
    plain = engine.generate(prompt, max_tokens=24)
with ptl.Engine(model, lambda: Phrases(phrases)) as engine:
    drafted = engine.generate(prompt, max_tokens=24)

print(prompt + drafted.text)
print(f"\nthe same text without drafts: {plain.text == drafted.text}")
print(f"{drafted.stats.n_accepted} of {drafted.stats.n_drafted} draft tokens were accepted")
