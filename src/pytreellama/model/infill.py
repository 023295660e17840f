"""Fill-in-the-middle prompts: what comes before and after the text that a model is to write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Encode = Callable[[str], list[int]]
"""From a text to token ids, without BOS, EOS and special tokens."""

_REPOSITORY = "myproject\n"
_FILE = "filename\n"


@dataclass(frozen=True, slots=True)
class InfillTokens:
    """Special tokens of a model that fills in the middle.

    Attributes:
        prefix, suffix, middle: before the text of each kind.
        repository, file: before the name of a repository, and of each of its files; None where the
            model knows no such.
    """

    prefix: int
    suffix: int
    middle: int
    repository: int | None = None
    file: int | None = None

    @classmethod
    def of(cls, tokens: Sequence[int | None]) -> InfillTokens | None:
        """Of the tokens in the order of the fields; None if one of the first three is missing."""
        prefix, suffix, middle, repository, file = tokens
        if prefix is None or suffix is None or middle is None:
            return None
        return cls(prefix, suffix, middle, repository, file)

    def prompt(
        self, encode: Encode, prefix: str, suffix: str, files: Sequence[tuple[str, str]] = ()
    ) -> list[int]:
        """Token ids of the prompt whose answer stands between a prefix and a suffix.

        The form is that of llama-server's ``/infill``, without BOS.

        Args:
            files: names and contents of other files of the project, for models that know them;
                other models get their contents alone.
        """
        ids = self._files(encode, files)
        ids += [self.prefix, *encode(prefix), self.suffix, *encode(suffix), self.middle]
        return ids

    def _files(self, encode: Encode, files: Sequence[tuple[str, str]]) -> list[int]:
        ids: list[int] = []
        if self.repository is not None and files:
            ids += [self.repository, *encode(_REPOSITORY)]
        for name, text in files:
            if self.file is not None:
                ids += [self.file, *encode(f"{name}\n")]
            ids += encode(text)
        if self.file is not None and files:
            ids += [self.file, *encode(_FILE)]
        return ids
