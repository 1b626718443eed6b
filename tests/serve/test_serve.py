"""The server, through its command line and over HTTP."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.chat.markup import render
from components.export.gguf_file import Description, write_gguf
from components.export.llama_cpp import LlamaCpp
from components.model.folders import load_tokenizer
from components.serve.__main__ import main
from components.serve.server import find_model, try_line


@pytest.fixture(scope="module")
def export_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    from components.configuration import Sampling

    folder = tmp_path_factory.mktemp("export")
    with LlamaCpp() as quantizer:
        write_gguf(
            tiny_model, folder / "tiny-q8_0.gguf", "q8_0", Description("tiny", "zh", None, Sampling()), quantizer
        )
    return folder


@pytest.fixture(scope="module")
def server(export_folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A running server: its process, its address and what it printed."""
    command = [sys.executable, "-m", "components.serve", "--export", str(export_folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    found = re.search(r"http://127\.0\.0\.1:\d+", lines[0])
    assert found, lines
    yield process, found[0], lines
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def ask(address: str, path: str, body: dict[str, Any] | None = None, **headers: str) -> tuple[Any, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers, json.loads(answer.read())


def test_it_answers_openai_s_chat_requests(server: tuple[Any, str, list[str]], tiny_model: Path) -> None:
    body = {"messages": [{"role": "user", "content": "春山"}], "max_tokens": 6, "temperature": 0}
    _, answer = ask(server[1], "/v1/chat/completions", body)
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert 1 <= answer["usage"]["completion_tokens"] <= 6
    tokenizer = load_tokenizer(tiny_model)
    chat = render([{"role": "user", "content": "春山"}], add_generation_prompt=True)
    assert answer["usage"]["prompt_tokens"] == len(tokenizer.encode(chat)), "one begin token, markers as tokens"
    assert answer["model"] == "tiny-q8_0"


def test_only_its_own_pages_may_talk_to_it_from_a_browser(server: tuple[Any, str, list[str]]) -> None:
    headers, _ = ask(server[1], "/v1/models", Origin=server[1])
    assert headers["Access-Control-Allow-Origin"] in (None, server[1])
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(server[1], "/v1/models", Origin="http://elsewhere.example")


def test_words_come_while_they_are_made(server: tuple[Any, str, list[str]]) -> None:
    body = {"messages": [{"role": "user", "content": "春山"}], "max_tokens": 6, "temperature": 0, "stream": True}
    request = urllib.request.Request(
        f"{server[1]}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 2


def test_it_listens_on_loopback_only(server: tuple[Any, str, list[str]]) -> None:
    port = int(server[1].rpartition(":")[2])
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    assert [place for place in listening if place.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_it_prints_a_line_to_try(server: tuple[Any, str, list[str]]) -> None:
    assert server[2][-1].strip().startswith(f"curl {server[1]}/v1/chat/completions ")


def test_the_line_to_try_asks_what_the_manifest_names(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"example": {"prompt": "春山"}}), encoding="utf-8")
    line = try_line(tmp_path / "x.gguf", "http://127.0.0.1:1")
    assert line.startswith("curl http://127.0.0.1:1/v1/completions ")
    assert '"prompt": "春山"' in line


def test_mistakes_end_in_one_sentence(export_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, sentence in (
            (["--export", str(tmp_path)], "holds no GGUF file: run `dvc repro export` first"),
            (["--export", str(export_folder), "--format", "f16"], "there is tiny-q8_0.gguf."),
            (["--export", str(export_folder), "--port", port], f"Port {port} on 127.0.0.1 cannot be had"),
        ):
            assert main(arguments) == 2
            told = capsys.readouterr().err
            assert sentence in told
            assert told.count("\n") == 1


def test_eight_bits_are_preferred(tmp_path: Path) -> None:
    for format in ("f16", "q4_k_m", "q8_0"):
        (tmp_path / f"inkwell-zh-8m-{format}.gguf").touch()
    assert find_model(tmp_path, None).name == "inkwell-zh-8m-q8_0.gguf"
    assert find_model(tmp_path, "q4_k_m").name == "inkwell-zh-8m-q4_k_m.gguf"
