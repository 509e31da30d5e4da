"""Frameworks for agents, unmodified, on sandboxes: each program is one that a user of it could have
written.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import scripted_model
from client_programs import ROOT, ClientHost, client_host
from page_blocks import blocks_of

pytestmark = [pytest.mark.clients, pytest.mark.long]

PROGRAMS = Path(__file__).parent / "programs"
PYTHON = str(ROOT / ".venv-frameworks" / "bin" / "python")


@pytest.fixture(scope="module")
def host() -> Iterator[ClientHost]:
    with client_host() as host:
        yield host


def test_an_agent_of_deep_agents_works_in_a_sandbox(host: ClientHost) -> None:
    host.execute(PYTHON, str(PROGRAMS / "deepagents_files.py"))


def test_an_agent_of_the_openai_agents_sdk_works_in_a_sandbox(host: ClientHost) -> None:
    host.execute(PYTHON, str(PROGRAMS / "openai_agents_session.py"))


@pytest.mark.parametrize("page", ["docs/openai-agents.md", "docs/langchain.md"])
def test_the_program_of_a_page_gets_its_answer(host: ClientHost, page: str) -> None:
    [program] = [block.text for block in blocks_of(page) if block.language == "python"]
    with scripted_model.serving("echo $((6 * 7)); whoami") as (url, asked):
        said = host.execute(
            *(PYTHON, "-c", program, "Say", "it."),
            OPENAI_BASE_URL=url,
            OPENAI_API_KEY="none",
            OPENAI_AGENTS_DISABLE_TRACING="1",
            ANTHROPIC_BASE_URL=url.removesuffix("/v1"),
            ANTHROPIC_API_KEY="none",
        )
    assert said.startswith("It printed:")
    assert "42\nship" in said.replace("\\n", "\n")
    assert len(asked) == 2


def test_swe_rex_has_its_sessions_in_a_sandbox(host: ClientHost) -> None:
    host.execute(PYTHON, str(PROGRAMS / "swe_rex_session.py"))


def test_samples_of_inspect_have_sandboxes_of_their_own(host: ClientHost) -> None:
    host.execute(PYTHON, str(PROGRAMS / "inspect_eval.py"))


def test_the_environment_of_inspect_passes_its_own_suite(host: ClientHost) -> None:
    suite = str(PROGRAMS / "inspect_suite.py")
    alone = ("-c", "/dev/null", "--noconftest", "--rootdir", str(PROGRAMS))  # no settings of this tree
    host.execute(PYTHON, "-m", "pytest", "-q", "-x", *alone, suite)


def test_the_backends_have_the_types_of_their_frameworks(tmp_path: Path) -> None:
    settings = tmp_path / "pyrightconfig.json"
    where = os.path.relpath(ROOT / "src" / "bay" / "integrations", tmp_path)
    # Frameworks have backends narrow the types of attributes.
    said = {"include": [where], "pythonVersion": "3.11", "reportIncompatibleVariableOverride": False}
    settings.write_text(json.dumps(said))
    command = [
        str(ROOT / ".venv/bin/pyright"), "--outputjson", "--pythonpath", PYTHON, "--project", str(settings),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    found = json.loads(done.stdout)
    assert found["generalDiagnostics"] == []
    assert found["summary"]["filesAnalyzed"] >= 4
