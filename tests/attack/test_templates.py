"""Chat templates of hostile files: whatever they do, a text or our own error comes, and soon.

A file's template runs where messages are rendered, in the caller's thread or the server's.
"""

from __future__ import annotations

import json

import pytest

from alone import survives

LIMIT_S, LIMIT_MB = 5.0, 1024

HELLO = "{{ messages[0].content }}"


def repeated(step: str, n: int = 60) -> str:
    """A namespace whose values are made anew n times."""
    loop = f"{{% for i in range({n}) %}}{step}{{% endfor %}}"
    return "{% set ns = namespace(a='ab', b=[1], n=3, t=(1,), d={}) %}" + loop


def each(step: str) -> str:
    """Half a million passes, if they are let."""
    return (
        "{% set big = 'ab' * 1000000 %}{% for i in range(1000) %}{% for j in range(500) %}"
        f"{step}{{% endfor %}}{{% endfor %}}"
    )


TEMPLATES = {
    # loops and calls
    "loops": "{% for a in range(99999) %}" * 4 + "x" + "{% endfor %}" * 4,
    "empty loops": "{% for a in range(99999) %}" * 8 + "{% endfor %}" * 8,
    "loops that test": "{% for a in range(99999) %}{% for b in range(99999) if false %}"
    "{% endfor %}{% endfor %}",
    "loops that go on": "{% for a in range(99999) %}{% for b in range(99999) %}{% continue %}"
    "{% endfor %}{% endfor %}",
    "loop counts": "{% for a in range(99999) %}{% for b in range(99999) %}{% if loop.last %}"
    "x{% endif %}{% endfor %}{% endfor %}",
    "thirty loops": "{% for a in range(2) %}" * 30 + "x" + "{% endfor %}" * 30,
    "recursive loop": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "branching loop": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "macro calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macro tree": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "quiet macro tree": "{% macro f(n) %}{% if n and f(n - 1) == f(n - 1) %}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "caller tree": "{% macro f(n) %}{% if n %}{% call f(n - 1) %}{% endcall %}"
    "{% call f(n - 1) %}{% endcall %}{% endif %}{% endmacro %}{{ f(60) }}",
    "block calls itself": "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
    "long text in loops": each("x" * 10_000),
    "macro of long text": "{% macro f() %}" + "x" * 100_000 + "{% endmacro %}"
    "{% for i in range(99999) %}{% set _ = f() %}{{ f() }}{% endfor %}",
    "set block in loops": each("{% set x %}" + "y" * 10_000 + "{{ big }}{% endset %}"),
    "filters of filters": "{% for i in range(1000) %}{{ range(99999)"
    + "|map('string')" * 60
    + "|list|length }}{% endfor %}",
    "lazy filters": repeated("{% set ns.b = ns.b|map('string') %}", 20_000) + "{{ ns.b|list }}",
    "cycles": "{% set c = cycler(1, 2) %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{{ c.next() }}{% endfor %}{% endfor %}",
    # numbers
    "power": "{{ 2 ** (2 ** 30) }}",
    "power without output": "{% set x = 2 ** (2 ** 40) %}",
    "power tower": "{{ 9 ** 9 ** 9 ** 9 }}",
    "shift by powers": "{{ 1 * 2 ** 99999999999 // 2 ** 99999999998 }}",
    "negative power": "{{ 2 ** -(2 ** 30) }}{{ 0.5 ** 99999999 }}",
    "squares": repeated("{% set ns.n = ns.n * ns.n %}"),
    "round": "{{ 5|round(999999999, 'ceil') }}{{ 5|round(-999999999) }}",
    "digits": "{{ " + "9" * 5_000 + " }}",
    "digits of text": "{{ ('9' * 4000)|int ** 999999 }}",
    "bytes as number": "{{ (1).from_bytes(('a' * 9999999).encode(), 'big') ** 3 }}",
    "number as bytes": "{{ (1).to_bytes(9999999999, 'big') }}",
    "range": "{{ range(999999999)|list }}",
    # texts of any length
    "times": "{{ 'x' * 9999999999 }}",
    "times from the left": "{% set x = 9999999999 * 'x' %}",
    "list times": "{% set x = [0] * 9999999999 %}",
    "tuple times": "{% set x = (0, 1) * 9999999999 %}",
    "bytes times": "{% set x = 'x'.encode() * 9999999999 %}",
    "doubled": repeated("{% set ns.a = ns.a + ns.a %}"),
    "doubled by ~": repeated("{% set ns.a = ns.a ~ ns.a %}"),
    "doubled by a block": repeated("{% set x %}{{ ns.a }}{{ ns.a }}{% endset %}{% set ns.a = x %}"),
    "doubled list": repeated("{% set ns.b = ns.b + ns.b %}"),
    "doubled by join": repeated("{% set ns.a = [ns.a, ns.a]|join %}"),
    "doubled by method": repeated("{% set ns.a = ''.join([ns.a, ns.a]) %}"),
    "doubled by format": repeated("{% set ns.a = '{0}{0}'.format(ns.a) %}"),
    "doubled by format_map": repeated("{% set ns.a = '{a}{a}'.format_map({'a': ns.a}) %}"),
    "doubled by %": repeated("{% set ns.a = '%s%s' % (ns.a, ns.a) %}"),
    "doubled by names": repeated("{% set ns.a = '%(a)s%(a)s' % {'a': ns.a} %}"),
    "doubled by filter": repeated("{% set ns.a = '%s%s'|format(ns.a, ns.a) %}"),
    "doubled by replace": repeated("{% set ns.a = ns.a|replace('a', 'aa') %}"),
    "doubled by method replace": repeated("{% set ns.a = ns.a.replace('', ns.a) %}"),
    "doubled by translate": repeated("{% set ns.a = ns.a.translate({97: ns.a}) %}"),
    "doubled by a list's text": repeated("{% set ns.a = [ns.a, ns.a]|string %}"),
    "doubled by json": repeated("{% set ns.a = [ns.a, ns.a]|tojson %}"),
    "sum of lists": "{{ (range(50000)|batch(1)|sum(start=[]))|length }}",
    "center": "{{ 'x'|center(9999999999) }}",
    "method center": "{{ 'x'.center(999999999) }}",
    "method ljust": "{% set x = 'x'.ljust(9999999999) %}",
    "method zfill": "{% set x = 'x'.zfill(9999999999) %}",
    "expandtabs": "{% set x = '\t'.expandtabs(999999999) %}",
    "width of %": "{{ '%9999999999d' % 1 }}",
    "width of % in a test": "{{ '%999999999d' is divisibleby(1) }}{{ '%999999999d' is even }}",
    "width of *": "{{ '%*d' % (999999999, 1) }}",
    "width of the filter": "{{ '%999999999d'|format(1) }}",
    "precision": "{{ '%.999999999f' % 1.0 }}",
    "width of format": "{{ '{:999999999}'.format(1) }}",
    "nested width": "{{ '{:{w}}'.format(1, w=999999999) }}",
    "safe width": "{{ ('{:999999999}'|safe).format(1) }}",
    "indent": "{{ 'a\nb\nc\nd'|indent(999999999) }}",
    "indent of json": "{{ [[[[1]]]]|tojson(indent=999999999) }}",
    "separators of json": "{{ [1, 2]|tojson(separators=('x' * 9999999, 'y')) }}",
    "batch": "{{ [1]|batch(999999999, 'x')|list|length }}",
    "slices": "{{ [1]|slice(999999999)|list|length }}",
    "join with much": "{{ range(99999)|join('x' * 99999) }}",
    "lipsum": "{{ lipsum(n=99999999) }}",
    "strftime": "{{ strftime_now('%999999999d' * 9999) }}",
    # time that grows faster than what is given
    "wordwrap": "{{ ('x' * 3000000)|wordwrap(1) }}",
    "wordwrap with much": "{{ ('x ' * 9999)|wordwrap(1, wrapstring='y' * 99999) }}",
    "urlize": "{{ (('(' * 300000) ~ (')' * 300000))|urlize }}",
    "striptags": "{{ ('<!--' * 500000)|striptags }}",
    "strip": "{{ ('x' * 3000000).strip('y' * 3000000 ~ 'x') }}",
    "trim": "{{ ('x' * 3000000)|trim('y' * 3000000 ~ 'x') }}",
    "rfind": "{{ ('a' * 3000000).rfind('b' ~ 'a' * 1000000) }}",
    "rsplit": "{{ ('a' * 3000000).rsplit('b' ~ 'a' * 1000000)|length }}",
    "punycode": "{{ ('\u0142x' * 300000).encode('punycode')|length }}",
    "split": "{% for i in range(99) %}{{ ('ab ' * 3000000).split()|length }}{% endfor %}",
    "searches": each("{{ 'c' in big }}"),
    "comparisons": each("{{ big == big ~ i }}"),
    "slicing": each("{{ big[::-1]|length }}"),
    "sorting": each("{{ range(9999)|sort|length }}"),
    "counting": each("{{ big.count('a') }}"),
    # values in one another
    "list of itself, written": repeated("{% set ns.b = [ns.b, ns.b] %}") + "{{ ns.b }}",
    "list of itself, joined": repeated("{% set ns.b = [ns.b, ns.b] %}") + "{{ ns.b ~ '' }}",
    "list of itself, as json": repeated("{% set ns.b = [ns.b, ns.b] %}") + "{{ ns.b|tojson }}",
    "list of itself, compared": repeated(
        "{% set ns.b = [ns.b, ns.b] %}{% set ns.t = [ns.t, ns.t] %}"
    )
    + "{{ ns.b == ns.t }}",
    "list of itself, sought": repeated("{% set ns.b = [ns.b, ns.b] %}{% set ns.t = [ns.t, ns.t] %}")
    + "{{ ns.b in [ns.t] }}",
    "list of itself, formatted": repeated("{% set ns.b = [ns.b, ns.b] %}") + "{{ '%s' % ns.b }}",
    "list of itself, marked": repeated("{% set ns.b = [ns.b, ns.b] %}") + "{{ ns.b|safe }}",
    "namespace of itself": repeated("{% set ns.b = [ns.b, ns.b] %}") + "{{ ns }}",
    "namespace in itself": "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
    "tuple of itself, hashed": repeated("{% set ns.t = (ns.t, ns.t) %}") + "{{ {ns.t: 1} }}",
    "tuple of itself, sought": repeated("{% set ns.t = (ns.t, ns.t) %}") + "{{ ns.d[ns.t] }}",
    "deep tuple, hashed": repeated("{% set ns.t = (ns.t,) %}", 99_999) + "{{ {ns.t: 1}|length }}",
    "deep tuple, sought": repeated("{% set ns.t = (ns.t,) %}", 99_999) + "{{ ns.d.get(ns.t) }}",
    "deep tuple, in a mapping": repeated("{% set ns.t = (ns.t,) %}", 99_999) + "{{ ns.t in ns.d }}",
    "deep tuple, unique": repeated("{% set ns.t = (ns.t,) %}", 99_999)
    + "{{ [ns.t]|unique|list|length }}",
    "deep list": repeated("{% set ns.b = [ns.b] %}", 99_999) + "{{ ns.b }}",
    "deep list, compared": repeated("{% set ns.b = [ns.b] %}", 99_999) + "{{ ns.b == [ns.b] }}",
    # what is read and compiled
    "brackets": "{{ " + "[" * 5_000 + "]" * 5_000 + " }}",
    "parentheses": "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
    "many ifs": "{% if true %}" * 2_000 + "{% endif %}" * 2_000,
    "many elifs": "{% if false %}" + "{% elif false %}" * 10_000 + "{% endif %}",
    "many sums": "{{ 1" + " + 1" * 20_000 + " }}",
    "many filters": "{{ 1" + "|string" * 20_000 + " }}",
    "many nots": "{{ " + "not " * 20_000 + "1 }}",
    "many comparisons": "{{ 1" + " == 1" * 20_000 + " }}",
    "many sets": "".join(f"{{% set a{i} = 1 %}}{{% if a{i} %}}{{% endif %}}" for i in range(5_000)),
    "many names": "{{ " + " ~ ".join(f"a{i}" for i in range(20_000)) + " }}",
    "many macros": "".join(f"{{% macro m{i}() %}}{{% endmacro %}}" for i in range(5_000)),
    "much text": "x" * 50_000_000,
    "many blocks": "{{ 1 }}" * 500_000,
    "open comment": "{#" * 100_000,
    "open expression": "{{" * 100_000,
    "open text": "{{ '" + "\\" * 100_000,
    "blanks": " " * 200_000 + "{%- if true -%}" + " " * 200_000,
    "NUL": "{{ '\0' * 3 }}\0",
    "half a pair": "{{ '\\ud800' }}" + HELLO,
    # what the sandbox and Jinja refuse
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "format to classes": "{{ '{0.__class__}'.format(1) }}" + HELLO,
    "attr to classes": "{{ ''|attr('__class__') }}" + HELLO,
    "codecs": "{{ 'x'.encode('os') }}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends messages %}",
    "import": "{% from '/etc/passwd' import x %}",
    "division": "{{ 1 / 0 }}",
    "refusal of any length": "{{ raise_exception('x' * 9999999) }}",
    "undefined of any length": "{{ messages['x' * 9999999].y.z }}",
    "raises a list of itself": repeated("{% set ns.b = [ns.b, ns.b] %}")
    + "{{ raise_exception(ns.b) }}",
}

LONG = ("deep ", "cycles", "list of itself, ", "tuple of itself, s", "doubled by a l", "namespace")
"""How the names begin of those that take half a second; others of their kind do not."""

SHORT = [name for name in TEMPLATES if not name.startswith(LONG)] + ["deep tuple, hashed"]

RENDER = """
import json, os, resource, sys, tempfile, time
from pytreellama import Model
from pytreellama.chat.template import chat_prompt
from pytreellama.errors import PyTreeLlamaError
from tiny_models import write_tiny_model

hello = [{"role": "user", "content": "hi"}]
for name, source in json.load(sys.stdin).items():
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_model(os.path.join(folder, "m.gguf"), "rope", n_layer=1,
                                chat_template=source)
        begun_s = time.process_time()
        with Model(path, vocab_only=True) as model:
            try:
                outcome = ["text", len(chat_prompt(model, hello))]
            except PyTreeLlamaError as error:
                outcome = [type(error).__name__, len(str(error))]
        seconds = time.process_time() - begun_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps([name, outcome, round(seconds, 2), peak_mb]), flush=True)
"""


def render(*names: str, limit_s: float) -> list[tuple[str, tuple[str, int], float, int]]:
    """Each one's outcome, seconds and the process's peak of memory, from a process of their own."""
    given = json.dumps({name: TEMPLATES[name] for name in names}).encode()
    told = survives(RENDER, stdin=given, limit_s=limit_s)
    return [json.loads(line) for line in told.splitlines()]


def test_hostile_templates_end_with_a_text_or_our_own_error() -> None:
    outcomes = render(*SHORT, limit_s=300.0)
    assert [name for name, *_ in outcomes] == SHORT
    for name, (_, n_characters), seconds, peak_mb in outcomes:
        assert seconds < LIMIT_S and peak_mb < LIMIT_MB, (name, seconds, peak_mb)
        assert n_characters < 100_000_000, name


@pytest.mark.long
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_hostile_template_ends_by_itself(name: str) -> None:
    ((_, _, seconds, peak_mb),) = render(name, limit_s=LIMIT_S + 5.0)  # which has to start
    assert seconds < LIMIT_S and peak_mb < LIMIT_MB
