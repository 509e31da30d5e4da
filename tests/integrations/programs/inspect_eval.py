"""An evaluation whose samples each have a sandbox; afterwards none is left."""

import tempfile

from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import Generate, TaskState, solver
from inspect_ai.util import SandboxEnvironmentSpec, sandbox

import bay
from bay.integrations.inspect_ai import LABEL, BayConfig


@solver
def in_sandbox():
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        await sandbox().write_file("in/x.txt", "from the sample")
        done = await sandbox().exec(["sh", "-c", "cat in/x.txt; echo $MODE"])
        state.output.completion = done.stdout
        assert (await sandbox().connection()).command.startswith("bay shell sandbox-")
        return state

    return solve


def main() -> None:
    task = Task(
        dataset=[Sample(input="one", target="from the samplequick"), Sample(input="two", target="never")],
        solver=in_sandbox(),
        scorer=includes(),
        sandbox=SandboxEnvironmentSpec("bay", BayConfig(env={"MODE": "quick"}, network="none")),
    )
    with tempfile.TemporaryDirectory() as logs:
        (log,) = evaluate(task, model="mockllm/model", log_dir=logs, display="none")
        assert log.status == "success", log.error
        assert log.samples is not None
        assert [sample.scores["includes"].value for sample in log.samples if sample.scores] == ["C", "I"]
    with bay.Client() as client:
        assert [box for box in client.sandboxes.list() if LABEL in box.info.labels] == []


if __name__ == "__main__":
    main()
