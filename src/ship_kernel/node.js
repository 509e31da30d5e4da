"use strict";
// The kernel of JavaScript: runs the cells that Ship sends in Node, one after another, as `serve.py` does for
// Python. Its stdin is the channel to Ship; its stdout and stderr are pipes, whose bytes belong to the cell.
//
// Node's own REPL evaluates the code: it keeps `let` and `const` between cells and takes `await` at the top.

const net = require("net");
const repl = require("repl");
const util = require("util");
const { Writable, PassThrough } = require("stream");

const MAX_TEXT = 4 << 20;
const SHOWN = { depth: 4, maxArrayLength: 1000, maxStringLength: MAX_TEXT };
const DISPLAY = Symbol.for("Jupyter.display"); // as Deno's kernel has it

const channel = new net.Socket({ fd: 0, readable: true, writable: true });
const toStderr = new Writable({
  write(chunk, _encoding, done) {
    process.stderr.write(chunk);
    done();
  },
});
const evaluator = repl.start({
  input: new PassThrough(),
  output: toStderr,
  prompt: "",
  terminal: false,
  useGlobal: true,
  ignoreUndefined: true,
  preview: false,
  breakEvalOnSigint: true,
});

let count = 0;
let interrupt = null; // ends the running cell with an error
const queue = [];
let busy = false;

function send(message) {
  channel.write(JSON.stringify(message) + "\n");
}

// `import … from "…"` at the beginning of a line, which no script may have, as the import that it may.
function withImports(code) {
  return code.replace(
    /^[ \t]*import\s+(?:([\w$*{},\s]+?)\s+from\s+)?(["'])([^"'\n]+)\2[ \t]*;?[ \t]*$/gm,
    (_whole, names, _quote, module) => {
      const imported = `await import(${JSON.stringify(module)})`;
      return names === undefined ? `${imported};` : `const ${pattern(names)} = ${imported};`;
    },
  );
}

function pattern(names) {
  const all = /\*\s+as\s+([\w$]+)/.exec(names);
  if (all) return all[1];
  const inner = /\{([^}]*)\}/.exec(names);
  const parts = inner ? inner[1].split(",").map((name) => name.trim().replace(/\s+as\s+/, ": ")) : [];
  const main = names.replace(/\{[^}]*\}/, "").replace(/,/g, "").trim();
  if (main) parts.unshift(`default: ${main}`);
  return `{ ${parts.filter(Boolean).join(", ")} }`;
}

function evaluate(code, name) {
  return new Promise((resolve, reject) => {
    interrupt = reject;
    // The REPL's own watchdog takes the signal while code runs, for a listener of ours would undo it, and it
    // leaves the signal to end the process.
    process.removeListener("SIGINT", interrupted);
    evaluator.eval(withImports(code) + "\n", evaluator.context, name, (error, value) => {
      if (error) reject(error instanceof repl.Recoverable ? error.err : error);
      else Promise.resolve(value).then(resolve, reject); // may be interrupted until a promise has its value
    });
    process.on("SIGINT", interrupted);
  });
}

function interrupted() {
  const error = new Error("the code was interrupted");
  if (interrupt) interrupt(Object.assign(error, { code: "ERR_SCRIPT_EXECUTION_INTERRUPTED" }));
}

async function run({ cell, code, env }) {
  const before = setVariables(env || {});
  send({ type: "start", cell, execution_count: ++count });
  let status = "ok";
  try {
    const value = await evaluate(code, `cell-${count}`);
    if (value !== undefined) {
      const data = bundle(value);
      send({ type: "result", cell, data, metadata: {}, execution_count: count });
    }
  } catch (error) {
    status = error && error.code === "ERR_SCRIPT_EXECUTION_INTERRUPTED" ? "interrupted" : "error";
    send({ type: "error", cell, ...described(error) });
  }
  interrupt = null;
  setVariables(before);
  send({ type: "end", cell, status, execution_count: count });
}

function bundle(value) {
  const text = util.inspect(value, SHOWN).slice(0, MAX_TEXT);
  const own = value !== null && typeof value === "object" ? value[DISPLAY] : undefined;
  if (typeof own !== "function") return { "text/plain": text };
  return { "text/plain": text, ...JSON.parse(JSON.stringify(own.call(value))) };
}

function described(error) {
  if (!util.types.isNativeError(error)) {
    const shown = util.inspect(error, SHOWN);
    return { ename: "Error", evalue: shown, traceback: [`Uncaught ${shown}`] };
  }
  const stack = String(error.stack || error).slice(0, MAX_TEXT);
  return { ename: String(error.name), evalue: String(error.message).slice(0, MAX_TEXT), traceback: stack.split("\n") };
}

// Sets variables, and removes those that are null; gives what was there.
function setVariables(wanted) {
  const before = {};
  for (const [name, value] of Object.entries(wanted)) {
    before[name] = process.env[name] === undefined ? null : process.env[name];
    if (value === null) delete process.env[name];
    else process.env[name] = value;
  }
  return before;
}

async function runAll() {
  if (busy) return;
  busy = true;
  while (queue.length) await run(queue.shift());
  busy = false;
}

function hear(message) {
  if (message.type === "exit") process.exit(0);
  if (message.type !== "run") return;
  queue.push(message);
  runAll();
}

// The REPL has its errors emitted there instead of handing them to its caller.
if (evaluator._domain) {
  evaluator._domain.removeAllListeners("error");
  evaluator._domain.on("error", fail);
}
process.on("uncaughtException", fail);

// An error of the running cell, or of what an earlier one left behind.
function fail(error) {
  if (interrupt) interrupt(error);
  else process.stderr.write(`Uncaught ${util.inspect(error, SHOWN)}\n`);
}

let waiting = "";
channel.setEncoding("utf8");
channel.on("data", (data) => {
  const lines = (waiting + data).split("\n");
  waiting = lines.pop();
  lines.filter(Boolean).forEach((line) => hear(JSON.parse(line)));
});
channel.on("close", () => process.exit(1));
channel.on("error", () => process.exit(1));
process.on("SIGINT", interrupted);
process.argv = [process.argv[0]];
send({ type: "ready", language: "javascript", version: process.versions.node });
