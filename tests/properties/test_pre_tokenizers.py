"""Pre-tokenizers: text is split as by std::regex, which llama.cpp uses, for every one of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytreellama import Model
from pytreellama.errors import VocabError
from pytreellama.model.vocab import Vocab
from pytreellama.testing.std_regex import encode_by_std_regex
from tiny_vocabularies import PRE_TOKENIZERS, boundary_merges, write_bpe

DATA = Path(__file__).parent.parent / "data"

# what the patterns tell apart, and what stands next to it
PARTS = (
    *(
        "a",
        "b",
        "Z",
        "A",
        "ab",
        "É",
        "é",
        "e\u0301",
        "ǅ",
        "ʰ",
        "中",
        "漢字",
        "あ",
        "ア",
        "가",
        "ㄱ",
    ),
    *("ก", "\u0e34", "ا", "\u064b", "\u0301", "0", "1", "12", "123", "1234", "١", "½", "²", "ⅷ"),
    *(" ", "  ", "    ", "\t", "\n", "\n\n", "\r", "\r\n", "\x0b", "\u00a0", "\u2003", "\u2028"),
    *("'s", "'S", "'t", "'re", "'VE", "'m", "'ll", "'d", "'", "’s", "!", "?", ".", "...", ",", "-"),
    *("/", "\\", "_", "$", "+", "<", "=", ">", "^", "~", "|", "`", "(", ")", "[", "]", "{", "}"),
    *(
        '"',
        "#",
        "%",
        "&",
        "*",
        ";",
        ":",
        "@",
        "…",
        "“",
        "。",
        "！",
        "～",
        "€",
        "©",
        "👍",
        "👩\u200d👩",
    ),
    *("\0", "\x1f", "\x85", "\u200b", "\ufeff", "\ue000", "\U000e0100", "\U0010ffff"),
    *("<sentinel:12>", "IMGIMGABCZ", "1234567", " " * 70),
)

texts = st.one_of(
    st.lists(st.sampled_from(PARTS), max_size=40).map("".join),
    st.lists(st.tuples(st.sampled_from(PARTS), st.integers(1, 9)), max_size=12).map(
        lambda runs: "".join(part * n for part, n in runs)
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocabularies")


@pytest.fixture(scope="module", params=[*PRE_TOKENIZERS, None])
def vocab(request: pytest.FixtureRequest, folder: Path) -> Iterator[Vocab]:
    """Its tokens tell where a text was split."""
    path = write_bpe(folder / f"{request.param}.gguf", request.param, merges=boundary_merges())
    with Model(path, vocab_only=True) as model:
        yield model.vocab
    path.unlink()


def outcome(encode: Callable[[], list[int]]) -> list[int] | str:
    """Token ids, or the error."""
    try:
        return encode()
    except VocabError as error:
        return str(error)


def assert_split_alike(vocab: Vocab, text: str) -> None:
    ours = outcome(lambda: vocab.encode(text, add_special=False))
    assert ours == outcome(lambda: encode_by_std_regex(vocab, text))


@settings(max_examples=60)
@given(text=texts)
def test_any_text_is_split_as_by_std_regex(vocab: Vocab, text: str) -> None:
    assert_split_alike(vocab, text)


@pytest.mark.parametrize("name", ["prompts.jsonl", "rewriting.jsonl"])
def test_real_text_is_split_as_by_std_regex(vocab: Vocab, name: str) -> None:
    assert_split_alike(vocab, (DATA / name).read_text(encoding="utf-8"))


def test_long_runs_are_split_as_by_std_regex(vocab: Vocab) -> None:
    for part in PARTS:
        assert_split_alike(vocab, part * (1200 // len(part)) + "a" + part * 9)


def test_tokens_tell_pre_tokenizers_apart(folder: Path) -> None:
    found = []
    for pre in ("gpt-2", "deepseek-v3", "tekken"):
        path = write_bpe(folder / f"{pre}-alone.gguf", pre, merges=boundary_merges())
        with Model(path, vocab_only=True) as model:
            found.append(model.vocab.encode("It's 12345 Times; HTTPServer!", add_special=False))
    assert len({tuple(one) for one in found}) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="libstdc++ recurses once a character")
def test_it_is_std_regex_that_texts_are_compared_with(folder: Path) -> None:
    """What it cannot do, and our matcher can, shows that there are two of them."""
    path = write_bpe(folder / "recursing.gguf", "deepseek-v3", merges=boundary_merges())
    code = (
        "import sys\n"
        "from pytreellama import Model\n"
        "from pytreellama.testing.std_regex import encode_by_std_regex\n"
        "with Model(sys.argv[1], vocab_only=True) as model:\n"
        "    text = 'a' * 1_000_000\n"
        "    print(len(model.vocab.encode(text, add_special=False)), flush=True)\n"
        "    encode_by_std_regex(model.vocab, text)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert int(result.stdout) > 0
    assert result.returncode == -signal.SIGSEGV
