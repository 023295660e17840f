"""Plugins of other programs give what the engine gives, with the real packages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pytreellama import Engine, Model

PathOf = Callable[..., Path]

SAID = "the cat and the dog"


@pytest.fixture
def plugin(
    tiny_model_path: PathOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """The plugin, with a user's folder of its own and the tiny model as the default one."""
    pytest.importorskip("llm", reason="needs llm: pip install '.[llm]'")
    from pytreellama.integrations import llm_plugin

    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    monkeypatch.setenv("PYTREELLAMA_MODEL", str(tiny_model_path("rope")))
    yield llm_plugin
    llm_plugin.close_engines()


# -- llm


def run_llm(*arguments: str, code: int = 0) -> str:
    from click.testing import CliRunner
    from llm.cli import cli

    result = CliRunner().invoke(cli, [*arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_llm_finds_the_plugin_and_writes_what_the_engine_writes(
    plugin: ModuleType, tiny_model: Callable[..., Model]
) -> None:
    with Engine(tiny_model("rope")) as engine:
        chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": SAID}]
        expected = engine.generate(chat, max_tokens=8, temperature=0).text
    options = ("-o", "temperature", "0", "-o", "max_tokens", "8", "--no-log")
    assert run_llm("-m", "pytreellama", SAID, "-s", "be brief", *options) == f"{expected}\n"


def test_listing_models_loads_nothing_native() -> None:
    pytest.importorskip("llm", reason="needs llm: pip install '.[llm]'")
    code = (
        "import sys, llm.cli\n"
        "import pytreellama.integrations.llm_plugin\n"
        "heavy = {'pytreellama.engine', 'pytreellama.native'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_model_is_added_under_a_name(plugin: ModuleType, tiny_model_path: PathOf) -> None:
    assert "tiny is added" in run_llm("pytreellama", "add", "tiny", str(tiny_model_path("rope")))
    assert json.loads(plugin.sources_file().read_text()) == plugin.sources() != {}
    assert "pytreellama: tiny" in run_llm("models")
    assert "expected owner/name" in run_llm("pytreellama", "add", "x", "hf:nothing", code=1)


def test_a_conversation_is_sent_whole(plugin: ModuleType) -> None:
    import llm

    model = llm.get_model("pytreellama")
    conversation = model.conversation()
    first = conversation.prompt(SAID, system="be brief", temperature=0, max_tokens=6)
    first_text = first.text()
    second = conversation.prompt("and", temperature=0, max_tokens=6)
    second.text()
    asked = plugin.messages(second.prompt, SimpleNamespace(responses=[first]))
    assert [one["role"] for one in asked] == ["system", "user", "assistant", "user"]
    assert asked[2]["content"] == first_text
    with Engine(plugin.engine_of(None, None, None).model) as engine:
        assert second.input_tokens == len(engine.encode_prompt(asked))


def test_a_schema_constrains_the_answer_and_errors_are_the_programs_own(
    plugin: ModuleType,
) -> None:
    import llm

    model = llm.get_model("pytreellama")
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    answer = model.prompt(SAID, schema=schema, max_tokens=200, seed=1).text()
    assert json.loads(answer)["a"] in (1, 2)
    with pytest.raises(llm.ModelError, match="top_p"):
        model.prompt(SAID, top_p=3.0).text()


# -- lm-evaluation-harness


class StubLM:
    """What the adapter uses of the harness's base class, where the harness is not installed."""


@pytest.fixture
def harness(tiny_model_path: PathOf, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    try:
        import lm_eval.api.model  # noqa: F401
    except ImportError:
        for name in ("lm_eval", "lm_eval.api"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        model, registry = ModuleType("lm_eval.api.model"), ModuleType("lm_eval.api.registry")
        model.LM = StubLM  # type: ignore[attr-defined]
        registry.register_model = lambda name: lambda cls: cls  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "lm_eval.api.model", model)
        monkeypatch.setitem(sys.modules, "lm_eval.api.registry", registry)
    from pytreellama.integrations.lm_eval import PyTreeLlamaLM

    lm = PyTreeLlamaLM(model=str(tiny_model_path("rope")), n_ctx="512", batch_size=1, device=None)
    yield lm
    lm.close()
    sys.modules.pop("pytreellama.integrations.lm_eval")


def asked(*args: Any) -> SimpleNamespace:
    return SimpleNamespace(args=args)


def plain_logp(engine: Engine, ids: list[int], n: int) -> float:
    """Of the last n tokens, each scored by itself."""
    total = 0.0
    for i in range(len(ids) - n, len(ids)):
        (score,) = engine.score(ids[:i], [[ids[i]]])
        total += score.logp
    return total


def test_log_likelihoods_are_those_of_single_tokens(
    harness: Any, tiny_model: Callable[..., Model]
) -> None:
    pairs = [(SAID, " and the cat"), (SAID, " ran"), (SAID + " ", "ran"), ("a", "b"), ("", "the")]
    found = harness.loglikelihood([asked(*pair) for pair in pairs])
    with Engine(tiny_model("rope"), n_ctx=512) as engine:
        for (context, continuation), (logp, _) in zip(pairs[:2], found[:2], strict=True):
            n = len(engine.encode_prompt(context + continuation)) - len(
                engine.encode_prompt(context)
            )
            ids = engine.encode_prompt(context + continuation)
            assert logp == pytest.approx(plain_logp(engine, ids, n), abs=1e-4)
        greedy = engine.generate(SAID, max_tokens=3, ignore_eos=True).tokens
        assert engine.score(SAID, [list(greedy)])[0].is_greedy
    assert found[2] == found[1], "a space at the end of a context belongs to the continuation"
    assert all(np.isfinite(logp) and logp < 0 for logp, _ in found)


def test_a_long_text_is_scored_in_windows_that_miss_nothing(
    harness: Any, tiny_model: Callable[..., Model]
) -> None:
    long = " ".join([SAID] * 60)
    (whole,) = harness.loglikelihood_rolling([asked(SAID)])
    with Engine(tiny_model("rope"), n_ctx=512) as engine:
        first = engine.vocab.bos if engine.vocab.bos is not None else engine.vocab.eos
        assert first is not None
        ids = [first, *engine.vocab.encode(SAID, add_special=False)]
        assert whole == pytest.approx(plain_logp(engine, ids, len(ids) - 1), abs=1e-4)
    (longer,) = harness.loglikelihood_rolling([asked(long)])
    assert longer < 20 * whole < 0


def test_answers_end_at_their_stop_strings(harness: Any, tiny_model: Callable[..., Model]) -> None:
    with Engine(tiny_model("rope"), n_ctx=512) as engine:
        text = engine.generate(SAID, max_tokens=20).text
    stop = text[len(text) // 2 :][:3]
    options = {"until": [stop], "max_gen_toks": 20, "do_sample": False, "temperature": 0.0}
    (answer,) = harness.generate_until([asked(SAID, options)])
    assert answer == text[: text.index(stop)]
    chat = harness.apply_chat_template([{"role": "user", "content": SAID}])
    assert SAID in chat and chat != SAID
