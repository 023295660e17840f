"""Templates in their sandbox: they write what Jinja writes, or are refused in words."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pytreellama.chat.sandbox import compiled, rendered
from pytreellama.chat.work import allowed, n_left, size, spend, weigh
from pytreellama.errors import ChatTemplateError, TemplateWorkError

MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "Héllo <b> a-b 12"},
    {"role": "assistant", "content": "x\ny", "calls": [{"name": "look", "n": [1, 2.5, None]}]},
]
EXPRESSIONS = [
    "messages[0].content.split(' ')[0].strip('H').title()",
    "messages[0]['content'][:2] ~ 1 ~ none ~ [1, 'a'] ~ {'a': (1,)}",
    "messages[0].content.replace('a', 'bb').upper().center(40, '*')",
    "messages[1].content | indent(3, true) | trim",
    "messages | map(attribute='role') | join(', ')",
    "messages | selectattr('role', 'equalto', 'user') | list | length",
    "messages | rejectattr('calls', 'defined') | map(attribute='content') | list",
    "messages | groupby('role') | map('first') | join",
    "messages[1].calls[0].items() | list",
    "messages[1].calls[0] | dictsort",
    "range(10) | batch(3, 'x') | list",
    "range(10) | slice(3) | map('list') | list",
    "range(7) | reverse | select('odd') | sum",
    "[3, 1, 2] | sort(reverse=true)",
    "['b', 'a', 'b'] | unique | join",
    "'%s is %05.1f or %-4d|' % ('x', 2, 3)",
    "'%(a)s' % {'a': 1}",
    "'%s-%s' | format(1, 2)",
    "'{:>6}|{a[b]}|{0.real}'.format(1, a={'b': 2})",
    "'{a}'.format_map({'a': 3})",
    "1 + 2 * 3 - 4 / 5 // 1 % 7 ** 2",
    "[1] + [2] * 2",
    "'ab' * 3",
    "1 < 2 <= 2 != 3 and 'a' in 'abc' and 1 not in [2] and 'role' in messages[0]",
    "7 is divisibleby(7) and 3 is odd and 4 is even and 'a' is lower",
    "messages is sequence and messages[0] is mapping and x is undefined",
    "messages[0].content | wordwrap(5) | urlize",
    "messages[0].content | escape | striptags",
    "3.14159 | round(2) ~ (2 | round(1, 'ceil'))",
    "'a,b'.rsplit(',', 1) + 'c d'.partition(' ') | list",
    "messages[0].content.encode('utf-8').decode('utf-8') == messages[0].content",
    "dict(a=1) == {'a': 1} and namespace(a=2).a == 2",
    "x | default('none') ~ (1 if false)",
]
STATEMENTS = [
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }}{% endfor %}",
    "{% for m in messages %}{{ loop.first }}{{ loop.previtem is defined }}"
    "{{ loop.cycle('a', 'b') }}"
    "{% else %}none{% endfor %}",
    "{% for m in [] %}{% else %}none{% endfor %}",
    "{% for a in [[1, [2]], [3]] recursive %}{% if a is iterable %}({{ loop(a) }})"
    "{% else %}{{ a }}{% endif %}{% endfor %}",
    "{% macro f(a, b=2) %}<{{ a }}{{ b }}{{ caller() if caller }}>{% endmacro %}{{ f(1) }}"
    "{% call f(3, b=4) %}in{% endcall %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
    "{{ ns.n }}",
    "{% set x %}a{{ messages[0].role }}{% endset %}{{ x }}"
    "{% filter upper %}b{{ x }}{% endfilter %}",
    "{% block b %}{{ messages[0].role }}{% endblock %}{{ self.b() }}",
    "{% with a = 1 %}{{ a }}{% endwith %}{% autoescape true %}{{ '<' ~ '>' }}{% endautoescape %}",
]


def jinjas(source: str) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(messages=MESSAGES)


@pytest.mark.parametrize("source", [*(f"{{{{ {one} }}}}" for one in EXPRESSIONS), *STATEMENTS])
def test_a_template_writes_what_jinja_writes(source: str) -> None:
    assert rendered(compiled(source), MESSAGES, {}) == jinjas(source)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "loops"),
        ("{{ 2 ** 99999 }}", "power has more than 8192 bits"),
        ("{{ 'x' * 999999999 }}", "longer texts"),
        ("{{ '{:99999999999}'.format(1) }}", "width of more than ten digits"),
        ("{{ [1] | tojson(indent=999) }}", "indent"),
        ("{{ 1 | round(9999) }}", "precision"),
    ],
)
def test_too_much_work_is_refused_and_named(source: str, why: str) -> None:
    with pytest.raises(TemplateWorkError, match=f"too much work: .*{why}.*; give shorter"):
        rendered(compiled(source), MESSAGES, {})


@pytest.mark.parametrize(
    "source",
    ["x" * 200_000, "{{ 1 }}" * 10_000, "{{ " + "[" * 5_000 + "]" * 5_000, "{{ " + "9" * 5_000],
)
def test_a_source_out_of_bounds_is_refused(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="template"):
        compiled(source)


def test_messages_of_a_template_are_cut() -> None:
    template = compiled("{{ raise_exception('x' * 99999) }}")
    with pytest.raises(ChatTemplateError) as caught:
        rendered(template, MESSAGES, {})
    assert len(str(caught.value)) < 1200


def test_a_value_counts_as_often_as_it_is_in_another() -> None:
    text = "x" * 3200
    with allowed(0, 1_000_000):
        once, twice = weigh([text]), weigh([text, text])
        assert twice - once == size(text) > 90
        assert n_left() == 1_000_000 - once - twice


def test_what_is_left_is_as_before_behind_a_rendering() -> None:
    with allowed(5, 7):
        rendered(compiled("{{ messages[0].content }}"), MESSAGES, {})
        assert n_left() == 7
        with pytest.raises(TemplateWorkError):
            spend(8)
