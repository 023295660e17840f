"""The OpenAPI document tells the truth: what it allows is served, the rest refused as it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import schemathesis
from fastapi import FastAPI
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import EngineEvent, FatalError, NonFatalError, ScenarioFinished

from pytreellama import Engine, Model
from pytreellama.serve.app import make_app
from pytreellama.serve.settings import Settings

TinyModel = Callable[..., Model]

_CONFIG = {
    "seed": 1,
    "workers": 1,
    "generation": {"deterministic": True, "max-examples": 25, "no-shrink": True},
    "phases": {"stateful": {"enabled": False}},  # no answer is the next request's
    "checks": {
        # what has the right form may still be wrong: grammars, token ids, a template's variables
        "positive_data_acceptance": {"enabled": False}
    },
}


@pytest.fixture(scope="module")
def app(tiny_model: TinyModel) -> Iterator[FastAPI]:
    engine = Engine(tiny_model("rope", stops=True), "suffix", n_ctx=256, n_seq_max=4, n_kept=4)
    with engine:
        yield make_app(engine, Settings(model_name="tiny", max_tokens=8, request_s=5.0))


@pytest.fixture(scope="module")
def events(app: FastAPI) -> list[EngineEvent]:
    """What happened while all was tried that the document tells of, and what it excludes."""
    config = SchemathesisConfig.from_dict(_CONFIG)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    return list(from_schema(schema).execute())


def test_every_answer_is_one_that_the_document_tells_of(events: list[EngineEvent]) -> None:
    failures = [
        f"{scenario.label}: {check.name}: {check.failure_info.failure.message}"
        f"\n{check.failure_info.code_sample}"
        for scenario in events
        if isinstance(scenario, ScenarioFinished)
        for checks in scenario.recorder.checks.values()
        for check in checks
        if check.failure_info is not None
    ]
    errors = [str(event) for event in events if isinstance(event, (NonFatalError, FatalError))]
    assert not failures + errors, "\n\n".join(failures + errors)


def test_x(events):
    from schemathesis.generation.modes import GenerationMode
    import json

    for e in events:
        if isinstance(e, ScenarioFinished):
            for k, n in e.recorder.cases.items():
                i = e.recorder.interactions.get(k)
                if (
                    i
                    and n.value.meta
                    and n.value.meta.generation.mode.is_positive
                    and i.response.status_code == 400
                ):
                    print("POS", e.phase, e.label, i.response.content[:300])
    for e in events:
        if isinstance(e, ScenarioFinished):
            c = Counter(
                i.response.status_code for i in e.recorder.interactions.values() if i.response
            )
            print(e.phase, e.label, e.status, e.skip_reason, c, e.elapsed_time)
