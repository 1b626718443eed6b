"""Rules for all files of infra/ and the configuration beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.infra.reading import ROOT, check, files, tool

FILES = [
    *files("*"),
    ROOT / ".dockerignore",
    ROOT / ".yamllint.yaml",
    ROOT / ".github" / "workflows" / "ci.yml",
]
# One name a network: on this machine, in Compose or in the cluster.
LOCAL = re.compile(r"(127\.0\.0\.1|localhost|[\w-]+|[\w-]+\.inkwell\.svc\.cluster\.local)(:|/|$|[\s\"'`,)\]}|])")
REGISTRIES = re.compile(
    r"pypi\.|pythonhosted|pytorch\.org|npmjs|conda|docker\.io|docker\.com|ghcr\.|quay\.|nvcr\.|gcr\.|registry\.\w|mirror\.\w|"
    r"\.amazonaws\.|debian\.org|ubuntu\.com|github\.io|githubusercontent"
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_registry_or_index_is_named(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert REGISTRIES.findall(text) == []
    for found in re.finditer(r"https?://(?:\(|\\)*", text):
        rest = text[found.end() : found.end() + 100]
        assert rest.startswith(("$", "127")) or LOCAL.match(rest), rest


def test_yamllint() -> None:
    check(tool("yamllint"), "--strict", "infra", ".github", ".yamllint.yaml")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_finished(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX|changeme|change-me|password123)\b", text, re.IGNORECASE)
    assert text.endswith("\n")
