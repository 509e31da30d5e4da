"""Code in a sandbox by the asynchronous client of E2B's code interpreter."""

import asyncio

from e2b_code_interpreter import AsyncSandbox


async def main() -> None:
    """Two executions at a time, and callbacks that are awaited."""
    sandbox = await AsyncSandbox.create(timeout=300, envs={"FROM_CREATE": "yes"})
    lines: list[str] = []

    async def take(message: object) -> None:
        lines.append(str(message))

    code = "import os, time\nfor n in range(3):\n    print(n, flush=True); time.sleep(0.1)\nos.environ['FROM_CREATE']"
    done = await sandbox.run_code(code, on_stdout=take)
    assert ("".join(lines), done.text) == ("0\n1\n2\n", "yes")
    context = await sandbox.create_code_context(language="javascript")
    one, two = await asyncio.gather(sandbox.run_code("'p'"), sandbox.run_code("1 + 1", context=context))
    assert (one.text, two.text) == ("p", "2")
    assert await sandbox.kill()
    print("done")


if __name__ == "__main__":
    asyncio.run(main())
