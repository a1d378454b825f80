"""The model's preparation: which folder, once, whole or not at all; and what the real one must hold."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamserve.errors import SetupError
from streamserve.lanes.vllm import model


def ignore(stage: str) -> None:
    """A progress callback that nobody looks at."""


class TestCacheFolder:
    def test_streamserve_cache_wins(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("STREAMSERVE_CACHE", str(tmp_path / "own"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert model.cache_folder() == tmp_path / "own"

    def test_then_xdg(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("STREAMSERVE_CACHE", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert model.cache_folder() == tmp_path / "streamserve"

    def test_then_the_home_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("STREAMSERVE_CACHE", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert model.cache_folder() == tmp_path / ".cache" / "streamserve"


class TestResolve:
    def test_a_model_folder_is_taken_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        assert model.resolve(str(tmp_path), ignore) == tmp_path

    def test_a_folder_without_a_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match=r"no config\.json"):
            model.resolve(str(tmp_path), ignore)

    @pytest.mark.parametrize("path", ["/no/such/model", "./no-such-model", "../no-such-model", "~/no-such-model"])
    def test_a_path_that_leads_nowhere_is_no_hugging_face_id(self, path: str) -> None:
        with pytest.raises(SetupError, match="there is no folder"):
            model.resolve(path, ignore)

    def test_a_hugging_face_id_is_passed_on(self) -> None:
        assert model.resolve("Qwen/Qwen3-0.6B", ignore) == "Qwen/Qwen3-0.6B"

    def test_the_embedded_model_needs_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model, "PACKAGE", "no-such-package")
        with pytest.raises(SetupError, match="make setup"):
            model.resolve("embedded", ignore)


class Conversion:
    """Writes one file and counts its calls; `started` is set by each, and `may_end` lets it go on."""

    def __init__(self) -> None:
        self.calls = 0
        self.started = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "config.json").write_text("{}")
        self.started.set()
        assert self.may_end.wait(10)


@contextmanager
def held(conversion: Conversion) -> Iterator[None]:
    conversion.may_end.clear()
    try:
        yield
    finally:
        conversion.may_end.set()


class TestPrepare:
    def test_converts_once(self, tmp_path: Path) -> None:
        conversion = Conversion()
        folder = tmp_path / "models" / "tiny"
        for _ in range(2):
            assert model.prepare(folder, conversion, ignore) == folder
        assert conversion.calls == 1
        assert (folder / "config.json").is_file()

    def test_the_folder_appears_when_it_is_whole(self, tmp_path: Path) -> None:
        conversion = Conversion()
        folder = tmp_path / "tiny"
        with ThreadPoolExecutor() as pool:
            with held(conversion):
                prepared = pool.submit(model.prepare, folder, conversion, ignore)
                assert conversion.started.wait(10)
                assert not folder.exists()
            assert prepared.result(10) == folder
        assert folder.is_dir()

    def test_a_second_process_waits_for_the_first(self, tmp_path: Path) -> None:
        conversion = Conversion()
        waiting = threading.Event()
        folder = tmp_path / "tiny"
        with ThreadPoolExecutor() as pool:
            with held(conversion):
                first = pool.submit(model.prepare, folder, conversion, ignore)
                assert conversion.started.wait(10)
                second = pool.submit(model.prepare, folder, conversion, lambda stage: waiting.set())
                assert waiting.wait(10)
                assert not second.done()
            assert first.result(10) == second.result(10) == folder
        assert conversion.calls == 1

    def test_what_an_interrupted_preparation_left_is_not_kept(self, tmp_path: Path) -> None:
        def interrupted(folder: Path) -> None:
            (folder / "half.safetensors").touch()
            raise KeyboardInterrupt

        folder = tmp_path / "tiny"
        with pytest.raises(KeyboardInterrupt):
            model.prepare(folder, interrupted, ignore)
        assert not folder.exists()
        model.prepare(folder, Conversion(), ignore)
        assert [path.name for path in folder.iterdir()] == ["config.json"]

    def test_a_cache_that_cannot_be_written_is_a_setup_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SetupError, match="STREAMSERVE_CACHE"):
            model.prepare(tmp_path / "file" / "tiny", Conversion(), ignore)


@pytest.mark.live
def test_the_embedded_model_is_complete() -> None:
    from tokenizers import Tokenizer

    folder = model.embedded_model(ignore)
    config, generation, tokenizer_config = (
        json.loads((folder / name).read_text())
        for name in ("config.json", "generation_config.json", "tokenizer_config.json")
    )
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["dtype"], config["max_position_embeddings"]) == ("bfloat16", 8192)
    assert "quantization_config" not in config
    assert config["eos_token_id"] == generation["eos_token_id"] == 2
    assert (tokenizer_config["eos_token"], tokenizer_config["pad_token"]) == ("<|im_end|>", "<|im_end|>")
    assert "<|im_start|>assistant" in (folder / "chat_template.jinja").read_text()
    assert (folder / "model.safetensors").stat().st_size > 250_000_000

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("<|im_end|>").ids == [2]
    assert tokenizer.encode("a  12").tokens == ["a", "ĠĠ", "1", "2"]
