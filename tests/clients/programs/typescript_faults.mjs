// The TypeScript SDK beside servers, callers and sources that fail. BAY_URL is a real Bay, FAULTS the proxy before it
// whose first part of a path names a fault.

import assert from "node:assert/strict";
import { createServer } from "node:net";
import { after, before, test } from "node:test";
import {
  BayError, Client, ConnectionFailed, InvalidArgument, NotFound, StorageFull, Timeout,
} from "../../../clients/typescript/dist/index.js";

const client = new Client();
const behind = (fault, options = {}) => new Client({ baseUrl: `${process.env.FAULTS}/${fault}`, ...options });
let box;

before(async () => {
  box = await client.sandbox();
});

after(async () => {
  await box.delete();
});

/** Resolves once the condition holds, looked at again and again. */
async function until(condition) {
  for (const end = Date.now() + 30_000; !(await condition()); ) assert.ok(Date.now() < end, "it never held");
}

async function running() {
  const found = [];
  for await (const proc of box.execs.list()) if (proc.info.state === "running") found.push(proc.id);
  return found;
}

test("an aborted run ends its command", async () => {
  const abort = new AbortController();
  const run = box.run("touch begun; sleep 600", { timeoutS: null, signal: abort.signal });
  run.catch(() => undefined);
  await until(() => box.files.exists("begun"));
  abort.abort();
  await assert.rejects(run, { name: "AbortError" });
  assert.deepEqual(await running(), []);
});

test("an aborted reader leaves the command running", async () => {
  const proc = await box.spawn("echo one; sleep 600");
  const abort = new AbortController();
  const reading = async () => {
    for await (const chunk of proc.output({ signal: abort.signal })) if (chunk.text === "one\n") abort.abort();
  };
  await assert.rejects(reading, { name: "AbortError" });
  assert.deepEqual(await running(), [proc.id]);
  await proc.kill();
});

test("input of any size is fed while output is read", async () => {
  const result = await box.run("tee copy | wc -c; sha256sum < copy", { stdin: "x".repeat(6 << 20) });
  assert.match(result.stdout, /^6291456\n/);
});

test("a source that fails leaves the old file, and its error is the caller's", async () => {
  await box.files.write("kept", "old");
  const source = (async function* () {
    yield new Uint8Array(1 << 20);
    throw new RangeError("no more");
  })();
  await assert.rejects(box.files.upload(source, "kept"), RangeError);
  assert.equal(await box.files.readText("kept"), "old");
});

test("an iterable and a stream are uploaded, and a download fills a stream", async () => {
  const pieces = Array.from({ length: 8 }, (_, number) => new Uint8Array(1 << 20).fill(number));
  assert.equal(await box.files.upload(pieces, "iterable"), 8 << 20);
  assert.equal(await box.files.upload(new Blob(pieces).stream(), "stream"), 8 << 20);
  let size = 0;
  const target = new WritableStream({ write: (piece) => void (size += piece.length) });
  assert.equal(await box.files.download("stream", target), 8 << 20);
  assert.equal(size, 8 << 20);
  assert.ok((await box.run("cmp iterable stream")).ok);
});

test("an answer that comes while the body does is heard", async () => {
  const full = await behind("full").sandboxes.get(box.id).catch((error) => error);
  assert.equal(full.id, box.id);
  await assert.rejects(full.files.write("large", new Uint8Array(16 << 20)), StorageFull);
});

test("a server that is busy is asked again", async () => {
  assert.equal((await behind("busy").sandboxes.get(box.id)).id, box.id);
});

test("a server that says nothing is a Timeout", async () => {
  await assert.rejects(behind("mute", { timeoutS: 0.3 }).health(), Timeout);
});

test("a server that is not Bay is told from one", async () => {
  await assert.rejects(behind("html").sandboxes.get(box.id), /which is not an answer of Bay/);
  await assert.rejects(behind("garbage").sandboxes.get(box.id), /which is not an answer of Bay/);
  const redirected = await behind("redirect").sandboxes.get(box.id).catch((error) => error);
  assert.ok(redirected instanceof BayError);
  assert.match(redirected.message, /redirect to http:\/\/elsewhere.invalid\/, which is not followed/);
});

test("a server that is not there is a ConnectionFailed that was not sent", async () => {
  const listener = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => listener.once("listening", resolve));
  const { port } = listener.address();
  await new Promise((resolve) => listener.close(resolve));
  const error = await new Client({ baseUrl: `http://127.0.0.1:${port}` }).health().catch((failed) => failed);
  assert.ok(error instanceof ConnectionFailed);
  assert.equal(error.details.sent, false);
});

test("a URL or a key that cannot be one is refused at once", () => {
  for (const baseUrl of ["ftp://host", "host:80", "http:", "http://"]) {
    assert.throws(() => new Client({ baseUrl }), InvalidArgument);
  }
  assert.throws(() => new Client({ apiKey: "a b" }), InvalidArgument);
});

test("a sandbox of its own has a lease unless it has a ttl, and is deleted at the end of its block", async () => {
  const expires = Date.parse(box.info.expires_at) - Date.parse(box.info.created_at);
  assert.equal(Math.round(expires / 1000), 600);
  const lasting = await client.sandbox({ ttl: 0 });
  assert.equal(lasting.info.expires_at, null);
  await lasting[Symbol.asyncDispose]();
  await assert.rejects(client.sandboxes.get(lasting.id), NotFound);
});
