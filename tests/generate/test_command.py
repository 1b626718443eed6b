"""The generate command as a person uses it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.chat.markup import Message
from components.configuration import Sampling
from components.errors import InkwellError
from components.generate.__main__ import main
from components.generate.writing import within_context
from components.model.folders import load_model, load_tokenizer

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


Generate = Callable[..., Ended]


@pytest.fixture
def generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Generate:
    """The command in an empty folder, in this process: a new one would spend seconds on imports."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, text: str = "") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        try:
            status = main(arguments)
        except SystemExit as refused:  # argparse
            status = int(str(refused.code))
        return Ended(status, *capsys.readouterr())

    return run


def test_continues_a_prompt_the_same_way_every_time_with_the_default_model(
    generate: Generate, tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base").symlink_to(tiny_model)
    (tmp_path / "params.yaml").write_text(
        "ingest: {sources: [{name: a, kind: path, location: a}]}\nsampling: {maximum_tokens: 12}\n"
    )
    one = generate("春山", "--seed", "4")
    assert (one.returncode, one.stderr) == (0, "")
    several = generate("-", "--seed", "4", "--samples", "2", text="春山")
    first, second = several.stdout.rstrip("\n").split("\n" + "-" * 20 + "\n")
    assert first == one.stdout.removesuffix("\n")
    assert second != first
    limit = len(load_tokenizer(tiny_model).encode(first, add_special_tokens=False))
    assert 1 <= limit <= 40  # twelve tokens, some of which spell a character in bytes


def test_greedy_text_does_not_depend_on_the_seed(generate: Generate, tiny_model: Path) -> None:
    common = ["春山", "--model", str(tiny_model), "--temperature", "0", "--maximum-tokens", "8", "--chat"]
    texts = {generate(*common, "--seed", seed).stdout for seed in ("1", "2")}
    assert len(texts) == 1


def test_conversation_answers_each_turn_and_reset_forgets(generate: Generate, tiny_model: Path) -> None:
    common = ["--interactive", "--model", str(tiny_model), "--temperature", "0", "--maximum-tokens", "8"]
    turns = generate(*common, text="春山\n春山\n/reset\n\n春山\n")
    assert (turns.returncode, turns.stderr) == (0, "")
    single = generate("春山", "--chat", *common[1:]).stdout
    assert turns.stdout.startswith(single)
    assert turns.stdout.endswith(single)
    assert len(turns.stdout) > 2 * len(single)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["x"], "There is no model yet"),
        (["x", "--model", "nowhere"], "nowhere is no model folder"),
        (["x", "--top-p", "3"], "--top-p 3.0:"),
        (["x", "--maximum-tokens", "0"], "--maximum-tokens 0:"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(generate: Generate, arguments: list[str], sentence: str) -> None:
    refused = generate(*arguments)
    assert refused.returncode == 2
    assert sentence in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert refused.stdout == ""


def test_prompt_longer_than_the_context_is_refused(generate: Generate, tiny_model: Path) -> None:
    refused = generate("山" * 300, "--model", str(tiny_model))
    assert refused.returncode == 2
    assert "301 tokens, the model's context holds 256" in refused.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["x", "--interactive"], ["x", "--samples", "0"], ["x", "--chat", "--raw"], ["x", "--seed", "-1"]]
)
def test_options_that_contradict_each_other_are_refused(generate: Generate, arguments: list[str]) -> None:
    assert generate(*arguments).returncode == 2


def test_command_line_prints_the_text_and_nothing_else(tmp_path: Path, tiny_model: Path) -> None:
    command = [sys.executable, "-m", "components.generate", "春山", "--model", str(tiny_model), "--maximum-tokens", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n")
    assert list(tmp_path.iterdir()) == []


def test_help_answers_without_heavy_imports() -> None:
    code = (
        "import sys, components.generate.__main__ as command\n"
        "command.parser().format_help()\n"
        "print(sorted({'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_oldest_turns_leave_first_and_a_question_leaves_with_its_answer(tiny_model: Path) -> None:
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    messages = [Message(role=("user", "assistant")[i % 2], content=f"{i}" + "山" * 30) for i in range(9)]
    kept = within_context(model, tokenizer, messages, Sampling(maximum_tokens=100))
    assert 1 < len(kept) < len(messages)
    assert kept == messages[-len(kept) :]
    assert kept[0]["role"] == "user"
    assert within_context(model, tokenizer, messages[-3:], Sampling(maximum_tokens=100)) == messages[-3:]
    with pytest.raises(InkwellError, match="too long"):
        within_context(model, tokenizer, [*messages, Message(role="user", content="山" * 250)][-1:], Sampling())
