"""``pytreellama serve`` before it serves: what it refuses, and what it makes of its options."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pytreellama.cli import app
from pytreellama.cli.serve import ServeOptions, _api_keys, _settings, _with_new_names
from pytreellama.errors import SamplerError


class NamedModel:
    """All that settings ask of a model."""

    path = Path("models/small.Q4_1.gguf")

    def __init__(self, **metadata: str) -> None:
        self.metadata = {f"general.sampling.{key}": value for key, value in metadata.items()}


def settings_of(model: NamedModel | None = None, **options: Any) -> Any:
    return _settings(ServeOptions(**options), model or NamedModel(), ())  # type: ignore[arg-type]


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 1, (result.stdout, result.stderr)
    return " ".join(result.stderr.split())


def test_help_tells_of_keys_and_limits() -> None:
    help = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "120"}).stdout
    for name in ("--api-key-file", "--request-time", "--prefix-cache-file", "--allow-host"):
        assert name in help


def test_old_names_of_options_work_and_warn(capsys: pytest.CaptureFixture[str]) -> None:
    options = _with_new_names(ServeOptions(kept=3, kept_file=Path("prefixes")))
    assert (options.cached_prefixes, options.prefix_cache_file) == (3, Path("prefixes"))
    err = capsys.readouterr().err
    assert "--kept is deprecated; use --cached-prefixes" in err
    assert "--kept-file is deprecated; use --prefix-cache-file" in err


def test_old_names_of_options_are_not_in_help() -> None:
    help = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "120"}).stdout
    assert "--kept" not in help


def test_an_unknown_log_level_is_refused() -> None:
    assert "debug, info, warning, error" in refusal("--log-level", "loud")


@pytest.mark.parametrize("origin", ["localhost", "https://example.org/", "example.org:80", ""])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    assert "expected an origin as browsers send it" in refusal("--cors", origin)


def test_an_unknown_drafter_is_refused_before_a_model_is_loaded() -> None:
    assert "invalid drafter" in refusal("--drafter", "oracle")


def test_a_port_in_use_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port}" in refusal("--port", str(port))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pytreellama.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'pytreellama[serve]'" in refusal()


def test_keys_come_from_options_a_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text("two\nthree\n", encoding="utf-8")
    monkeypatch.setenv("PYTREELLAMA_API_KEY", "four five")
    options = ServeOptions(api_key=["one"], api_key_file=file)
    assert _api_keys(options) == ("one", "two", "three", "four", "five")


def test_an_empty_key_file_does_not_open_the_server(tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    assert "holds no keys" in refusal("--api-key-file", str(tmp_path / "keys"))


def test_an_empty_key_is_refused() -> None:
    assert "is empty" in refusal("--api-key", "")


def test_the_model_is_called_as_its_file() -> None:
    assert settings_of().model_name == "small.Q4_1"
    named = settings_of(alias=["gpt", "small"])
    assert (named.model_name, named.aliases) == ("gpt", ("small",))


def test_on_loopback_only_its_names_are_allowed() -> None:
    assert "localhost" in settings_of().allowed_hosts
    assert settings_of(host="0.0.0.0").allowed_hosts == ()
    open_to = settings_of(allow_host=["llm.example"]).allowed_hosts
    assert {"llm.example", "127.0.0.1"} <= set(open_to)


class TestSamplingDefaults:
    def test_they_are_usual_where_nobody_says_anything(self) -> None:
        usual = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
        assert settings_of().sampling == usual

    def test_the_model_s_recommendation_comes_before_them(self) -> None:
        model = NamedModel(temp="0.600000", top_k="20", penalty_repeat="1.1", sequence="k;p")
        sampling = settings_of(model).sampling
        assert sampling == {
            **{"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05},
            "repeat_penalty": 1.1,
        }
        assert isinstance(sampling["top_k"], int)

    def test_options_come_before_both(self) -> None:
        sampling = settings_of(NamedModel(temp="0.6"), temperature=0.0, typical_p=0.9).sampling
        assert (sampling["temperature"], sampling["typical_p"]) == (0.0, 0.9)

    @pytest.mark.parametrize("text", ["many", "nan", "-3", "1e999", ""])
    def test_a_recommendation_that_is_none_is_ignored(
        self, text: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert settings_of(NamedModel(top_p=text, top_k=text)).sampling == settings_of().sampling
        assert "general.sampling.top_p" in caplog.text

    def test_an_option_out_of_range_is_refused(self) -> None:
        with pytest.raises(SamplerError, match="top_p=2"):
            settings_of(top_p=2.0)
