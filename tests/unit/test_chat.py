"""Chat templates: rendered as Hugging Face renders them, in a sandbox, with errors that help."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pytreellama.chat.template import ChatTemplate, chat_prompt, encode_chat, needs_bos
from pytreellama.errors import ChatTemplateError

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHAT_FILE = Path(sys.modules[ChatTemplate.__module__].__file__ or "")
HELLO = [{"role": "user", "content": "Héllo <b>"}]


class FakeVocab:
    """A vocabulary with BOS 1 and EOS 2 that encodes a text as its length."""

    bos, eos = 1, 2

    def __init__(self, adds_bos: bool = True) -> None:
        self.adds_bos = adds_bos

    def piece(self, token: int, *, special: bool) -> bytes:
        assert special
        return {1: b"<s>", 2: b"</s>"}[token]

    def encode_array(
        self, text: str, *, add_bos: bool, add_eos: bool, parse_special: bool
    ) -> np.ndarray:
        assert parse_special and not add_eos
        return np.array([1] * add_bos + [len(text)], np.int32)


def fake_vocab(**options: bool) -> Any:
    return FakeVocab(**options)


def model_with(template: str | None) -> Any:
    return SimpleNamespace(
        chat_template=template, path=Path("tiny.gguf"), vocab=FakeVocab(), metadata={}
    )


def test_messages_are_written_in_order_and_end_with_the_assistants_turn() -> None:
    assert ChatTemplate(CHATML).render(HELLO) == (
        "<|im_start|>user\nHéllo <b><|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_a_generation_prompt_the_text_ends_after_the_last_message() -> None:
    text = ChatTemplate(CHATML).render(HELLO, add_generation_prompt=False)
    assert text.endswith("<|im_end|>\n")


def test_bos_and_eos_come_from_the_model() -> None:
    model = model_with("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    assert chat_prompt(model, [{"role": "user", "content": "x"}]) == "<s>x</s>"


def test_a_model_without_template_says_what_to_do() -> None:
    with pytest.raises(ChatTemplateError, match=r"tiny\.gguf has no chat template.*plain text"):
        chat_prompt(model_with(None), HELLO)


def test_a_template_may_refuse_messages() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        template.render(HELLO)


def test_tojson_keeps_text_as_it_is() -> None:
    template = ChatTemplate("{{ tools | tojson(indent=1) }}|{{ messages[0].content | tojson }}")
    text = template.render(HELLO, tools=[{"name": "è"}])
    assert text == '[\n {\n  "name": "è"\n }\n]|"Héllo <b>"'


def test_blocks_leave_no_blank_lines_and_loops_may_break() -> None:
    source = (
        "{% for message in messages %}\n"
        "    {% if loop.index > 1 %}\n"
        "        {% break %}\n"
        "    {% endif %}\n"
        "{{ message.content }}\n"
        "{% endfor %}\n"
    )
    assert ChatTemplate(source).render(HELLO * 3) == "Héllo <b>\n"


def test_generation_blocks_are_written_as_plain_text() -> None:
    source = "{% generation %}{{ messages[0].content }}!{% endgeneration %}?"
    assert ChatTemplate(source).render(HELLO) == "Héllo <b>!?"


def test_the_date_is_todays() -> None:
    text = ChatTemplate("{{ strftime_now('%Y') }} {{ messages[0].content }}").render(HELLO)
    assert abs(int(text.split()[0]) - datetime.now().year) <= 1


def test_extra_variables_reach_the_template() -> None:
    template = ChatTemplate("{{ messages[0].content }} {{ 'think' if enable_thinking else '!' }}")
    assert template.render(HELLO, enable_thinking=False) == "Héllo <b> !"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ range(10000000) }}",
        "{{ 1 / 0 }}",
        "{{ nothing.at.all }}",
    ],
)
def test_what_the_sandbox_forbids_or_the_template_gets_wrong_is_an_error(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="template failed on these messages"):
        ChatTemplate(source).render(HELLO)


def test_the_sandbox_hides_what_leads_out_of_it() -> None:
    assert ChatTemplate("[{{ messages.__class__ }}]{{ messages }}").render(HELLO)[:2] == "[]"


def test_an_invalid_template_names_the_line() -> None:
    with pytest.raises(ChatTemplateError, match="line 2"):
        ChatTemplate("{# fine #}\n{% if %}")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        {"role": "user", "content": "x"},
        ["hello"],
        [{"content": "x"}],
        [{"role": "", "content": "x"}],
        [{"role": 3, "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 3}],
    ],
)
def test_malformed_messages_are_refused(messages: Any) -> None:
    with pytest.raises(ChatTemplateError, match="message"):
        ChatTemplate(CHATML).render(messages)


def test_a_call_of_tools_needs_no_content() -> None:
    source = "{{ messages[0].tool_calls[0].name }}"
    message = {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]}
    assert ChatTemplate(source).render([message]) == "look"


PARTS = (
    "{% for message in messages %}[{{ message.role }}]"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{% endfor %}"
)
BOTH = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}<{{ part.text }}>{% endfor %}{% endif %}"
    "{% endfor %}"
)
SAID = [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there"}]


@pytest.mark.parametrize(
    ("source", "content", "text"),
    [
        (PARTS, "Hello", "[user]Hello"),
        (PARTS, SAID, "[user]Hello there"),
        (CHATML, SAID, "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n"),
        ("{{ messages[0].content }}", SAID, "Hello there"),
        ("{{ messages[0].content | tojson }}", SAID, '"Hello there"'),
        ("{{ messages[0].content | upper | trim }}", " hi ", "HI"),
        (BOTH, "Hello", "Hello"),
        (BOTH, SAID, "<Hello ><there>"),
    ],
)
def test_content_reaches_a_template_in_the_form_that_it_takes(
    source: str, content: Any, text: str
) -> None:
    assert ChatTemplate(source).render([{"role": "user", "content": content}]) == text


def test_parts_that_are_not_text_reach_a_template_as_they_are() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "see"}]
    with pytest.raises(ChatTemplateError, match="failed on these messages"):
        ChatTemplate(CHATML).render([{"role": "user", "content": parts}])
    assert ChatTemplate(PARTS).render([{"role": "user", "content": parts}]) == "[user]see"


def test_a_template_that_drops_what_a_user_says_is_refused() -> None:
    template = ChatTemplate("{% for message in messages %}[{{ message.role }}]{% endfor %}")
    with pytest.raises(ChatTemplateError, match="does not write what a user says"):
        template.render(HELLO)
    assert template.render([{"role": "assistant", "content": "x"}]) == "[assistant]"


def test_a_template_that_refuses_one_word_is_asked_for_the_messages_all_the_same() -> None:
    source = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ messages[1].content }}"
    )
    assert ChatTemplate(source).render([{"role": "system", "content": "s"}, *HELLO]) == "Héllo <b>"


@pytest.mark.parametrize(
    ("source", "takes_system"),
    [
        (CHATML, True),
        (PARTS, True),
        ("{{ raise_exception('no') if messages[0].role == 'system' }}" + CHATML, False),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", False),
    ],
)
def test_a_role_of_the_system_is_seen_by_its_words(source: str, takes_system: bool) -> None:
    assert ChatTemplate(source).takes_system is takes_system


def test_documents_and_tools_are_none_where_none_are_given() -> None:
    source = (
        "{{ messages[0].content }}{% if documents is not none %}{{ documents | length }}{% endif %}"
        "{% if tools is not none %}{{ tools | length }}{% endif %}"
    )
    template = ChatTemplate(source)
    assert template.render(HELLO) == "Héllo <b>"
    assert template.render(HELLO, documents=[{}], tools=[{}, {}]) == "Héllo <b>12"


def test_the_template_for_tools_is_used_where_tools_are_given() -> None:
    model = model_with("{{ messages[0].content }}")
    model.metadata["tokenizer.chat_template.tool_use"] = "{{ messages[0].content }}{{ tools }}"
    assert chat_prompt(model, HELLO) == "Héllo <b>"
    assert chat_prompt(model, HELLO, tools=[{"a": 1}]) == "Héllo <b>[{'a': 1}]"


def test_a_long_chat_costs_what_its_messages_are_worth() -> None:
    """As Gemma 4's template does, which looks back from each message at all before it."""
    source = (
        "{% for m in messages %}{% for j in range(loop.index0) %}"
        "{% if messages[j].role == 'x' %}{% endif %}{% endfor %}{{ m.content }}{% endfor %}"
    )
    assert len(ChatTemplate(source).render(HELLO * 800)) == 800 * len("Héllo <b>")


def test_any_thread_may_render() -> None:
    template, written = ChatTemplate(CHATML), []
    thread = threading.Thread(target=lambda: written.append(template.render(HELLO)))
    thread.start()
    thread.join()
    assert written == [template.render(HELLO)]


def test_a_variable_may_have_any_name() -> None:
    template = ChatTemplate("{{ messages[0].content }}{{ context }}{{ template }}")
    extra: dict[str, Any] = {"self": 1, "context": 2, "template": 3, "variables": 4}
    assert template.render(HELLO, **extra) == "Héllo <b>23"


def test_rendering_leaves_the_callers_messages_alone() -> None:
    messages = [{"role": "user", "content": "x"}]
    ChatTemplate("{% set ns = namespace(m=messages) %}{{ ns.m[0].content }}").render(messages)
    assert messages == [{"role": "user", "content": "x"}]


def test_bos_is_added_once_and_only_where_the_model_wants_it() -> None:
    assert needs_bos(fake_vocab(adds_bos=True), "hello")
    assert not needs_bos(fake_vocab(adds_bos=True), "<s>hello")
    assert not needs_bos(fake_vocab(adds_bos=False), "hello")
    assert encode_chat(fake_vocab(), "hello") == [1, 5]
    assert encode_chat(fake_vocab(), "<s>hello") == [8]


def test_importing_chat_does_not_import_jinja() -> None:
    code = (
        "import sys, importlib.util as u\n"
        f"spec = u.spec_from_file_location('chat', {str(CHAT_FILE)!r})\n"
        "spec.loader.exec_module(u.module_from_spec(spec))\n"
        "print('jinja2' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
