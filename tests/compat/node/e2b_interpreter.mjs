// Code in a sandbox by E2B's code interpreter for JavaScript: state, charts, errors, contexts, callbacks.
import assert from "node:assert/strict";
import { Sandbox } from "@e2b/code-interpreter";

const sandbox = await Sandbox.create({ timeoutMs: 300_000 });
try {
  await sandbox.runCode("x = 41\nx += 1");
  assert.equal((await sandbox.runCode("x")).text, "42");
  assert.deepEqual((await sandbox.runCode("!echo shell")).logs.stdout, ["shell\n"]);

  const figure = "import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4], label='way')\nplt.title('Walk')\nplt.show()";
  const [shown] = (await sandbox.runCode(figure)).results;
  assert.ok(Buffer.from(shown.png, "base64").subarray(1, 4).equals(Buffer.from("PNG")));
  assert.deepEqual([shown.chart.type, shown.chart.title], ["line", "Walk"]);
  assert.deepEqual(shown.chart.elements[0].points, [[1, 3], [2, 4]]);
  const [table] = (await sandbox.runCode("import pandas as pd\npd.DataFrame({'a': [1, 2]})")).results;
  assert.deepEqual(table.data, { a: [1, 2] });

  const failed = await sandbox.runCode("1 / 0");
  assert.deepEqual([failed.error.name, failed.error.value], ["ZeroDivisionError", "division by zero"]);
  await assert.rejects(sandbox.runCode("while True: pass", { timeoutMs: 3000 }), { name: "TimeoutError" });
  assert.equal((await sandbox.runCode("x")).text, "42");
  const once = await sandbox.runCode("import os; os.environ['ONCE']", { envs: { ONCE: "set" } });
  assert.equal(once.text, "set");

  const seen = [];
  await sandbox.runCode("import sys\nprint('out', flush=True)\nprint('err', file=sys.stderr)\n'it'", {
    onStdout: (message) => seen.push(message.line),
    onStderr: (message) => seen.push(message.line),
    onResult: (result) => seen.push(result.text),
  });
  assert.deepEqual(seen, ["out\n", "err\n", "it"]);

  const context = await sandbox.createCodeContext({ language: "javascript", cwd: "/tmp" });
  await sandbox.runCode("const kept = 20", { context });
  assert.equal((await sandbox.runCode("await Promise.resolve(kept * 2)", { context })).text, "40");
  assert.ok((await sandbox.listCodeContexts()).some((each) => each.id === context.id));
  await sandbox.restartCodeContext(context);
  assert.equal((await sandbox.runCode("kept", { context })).error.name, "ReferenceError");
  await sandbox.removeCodeContext(context);
  await assert.rejects(sandbox.runCode("1", { context }));
} finally {
  await sandbox.kill();
}
console.log("done");
process.exit(0); // the client leaves a timer of a minute behind a call that was refused
