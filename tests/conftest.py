"""Fixtures and hypothesis profiles for the whole suite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

import backends
import lanes
import leftovers
import tiny_models

if TYPE_CHECKING:
    from pytreellama import Context, Model

backends.choose()

_SLOW_MACHINE = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile(
    "ci", max_examples=50, derandomize=True, deadline=None, suppress_health_check=_SLOW_MACHINE
)
settings.register_profile(
    "thorough", max_examples=2000, deadline=None, suppress_health_check=_SLOW_MACHINE
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without a native build, leave out the files that cannot be imported."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    if is_test and not lanes.has_native_build() and lanes.needs_native(collection_path):
        return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its lanes, before ``-m`` selects; what is in none is ``fast``."""
    for item in items:
        for lane in lanes.lanes_of(item) or {"fast"}:
            item.add_marker(lane)
        if item.get_closest_marker("exact_only") is not None:
            item.add_marker(_if_exact())


def _if_exact() -> pytest.MarkDecorator:
    """A skip where the bits of a product depend on the width of the pass."""
    from exactness import EXACT

    return pytest.mark.skipif(
        not EXACT,
        reason="products depend on the width here: needs AVX2 or Arm's dot products, without "
        "GGML_CPU_INVARIANT=0, and no PYTREELLAMA_TEST_BACKEND",
    )


def pytest_sessionstart() -> None:
    """End the session where it cannot run on the device that was asked for."""
    if why := backends.missing_device():
        pytest.exit(f"PYTREELLAMA_TEST_BACKEND={backends.BACKEND}: {why}", returncode=2)


@pytest.fixture(scope="session", autouse=True)
def costs_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where engines keep what passes cost: not among the user's own, and new in each session."""
    folder = tmp_path_factory.mktemp("costs")
    try:
        from pytreellama.engine import known_costs
    except ImportError:
        yield folder  # without a native build there are no engines
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_costs, "_folder", lambda: folder)
        yield folder


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a module that leaves an engine, a thread or a process to those after it."""
    before = leftovers.Leftovers()
    yield
    left = before.since()
    if left:
        pytest.fail(f"{request.node.name} leaves {'; '.join(left)}: close what tests open")


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's model files are written."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny_model_path(model_directory: Path) -> Callable[..., Path]:
    """Writes a tiny random model once a session: ``tiny_model_path(kind, **options)``."""

    def write(kind: str, **options: Any) -> Path:
        return tiny_models.tiny_model(kind, model_directory, **options)

    return write


@pytest.fixture(scope="session")
def tiny_model(tiny_model_path: Callable[..., Path]) -> Iterator[Callable[..., Model]]:
    """Loads a tiny random model once a session: ``tiny_model(kind, **options)``."""
    from pytreellama import Model

    models: dict[Path, Model] = {}

    def load(kind: str, **options: Any) -> Model:
        path = tiny_model_path(kind, **options)
        if path not in models:
            models[path] = Model(path)
        return models[path]

    yield load
    for model in models.values():
        model.close()


@pytest.fixture
def new_context(tiny_model: Callable[..., Model]) -> Iterator[Callable[..., Context]]:
    """Makes contexts of a kind, closed after the test: ``new_context(kind, dtype, **options)``."""
    from pytreellama import Context

    made: list[Context] = []

    def make(kind: str, dtype: str = "f32", **options: Any) -> Context:
        model = tiny_model(kind, **({} if dtype == "f32" else {"dtype": dtype}))
        made.append(Context(model, **options))
        return made[-1]

    yield make
    for context in made:
        context.close()


@pytest.fixture(scope="session")
def default_model() -> Iterator[Model]:
    """The model that comes by itself, Q4_1."""
    from pytreellama import Model

    with Model.default() as model:
        yield model
