// The TypeScript SDK beside servers, callers and sources that fail. BAY_URL is a real Bay, FAULTS the proxy before it
// whose first part of a path names a fault.

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { createServer as createHttpServer } from "node:http";
import { connect, createServer } from "node:net";
import { after, before, test } from "node:test";
import {
  BayError, Box, Client, Conflict, ConnectionFailed, InvalidArgument, NotFound, Proc, QuotaExceeded, StorageFull, Timeout,
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
  for (const end = Date.now() + 30_000; !(await condition()); await new Promise(setImmediate)) {
    assert.ok(Date.now() < end, "it never held");
  }
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

// The caller's own time

/** More than the server may be silent: the client's `timeoutS` is 60. */
const LONG_S = 100;
/** Shorter timers, as the platform's own are, are left alone. */
const SHORT_MS = 5000;

/** Puts the SDK's clock forward by hand, and its timers with it. Real time goes on beside it. */
function clockOf(context) {
  const { setTimeout, clearTimeout } = globalThis;
  const { now } = performance;
  const timers = new Map();
  let ahead = 0;
  performance.now = () => now.call(performance) + ahead;
  globalThis.setTimeout = (act, delay, ...rest) => {
    const timer = setTimeout(act, delay, ...rest);
    if (delay >= SHORT_MS) timers.set(timer, { act, at: performance.now() + delay });
    return timer;
  };
  globalThis.clearTimeout = (timer) => {
    timers.delete(timer);
    clearTimeout(timer);
  };
  context.after(() => {
    Object.assign(globalThis, { setTimeout, clearTimeout });
    delete performance.now;
  });
  return () => {
    ahead += LONG_S * 1000;
    const due = [...timers].filter(([, { at }]) => at <= performance.now());
    for (const [timer, { act }] of due) {
      globalThis.clearTimeout(timer);
      act();
    }
    return due.length;
  };
}

test("a reader who is slow is not the server's silence", async (context) => {
  const forward = clockOf(context);
  await box.run("mkdir wide; head -c 16000000 /dev/urandom > wide/file", { check: true });
  let bytes = 0;
  for await (const piece of box.files.archive("wide")) {
    if (!bytes) assert.ok(forward());
    bytes += piece.length;
  }
  assert.ok(bytes > 16_000_000);
  const proc = await box.spawn("head -c 16000000 /dev/zero");
  bytes = 0;
  for await (const chunk of proc.output({ timeoutS: 60 })) {
    if (!bytes) assert.ok(forward());
    bytes += chunk.data.length;
  }
  assert.equal(bytes, 16_000_000);
});

test("a source that is slow is not the server's silence", async (context) => {
  const forward = clockOf(context);
  const source = (async function* () {
    yield new Uint8Array(1 << 10);
    assert.ok(forward());
    yield new Uint8Array(1 << 10);
  })();
  assert.equal(await box.files.upload(source, "slow"), 2 << 10);
});

test("a time limit of any length is one", async () => {
  const patient = await new Client({ timeoutS: 1e9, retryS: 1e9 }).sandboxes.get(box.id);
  assert.equal((await patient.run("echo hello", { timeoutS: null })).stdout, "hello\n");
  const proc = await patient.spawn("echo hello");
  assert.equal((await proc.wait({ timeoutS: 1e9 })).stdout, "hello\n");
  const shown = await (await patient.spawn("echo hello")).attach();
  assert.equal((await shown.read(1e9)).text, "hello\n");
  shown.close();
});

// Sources, sockets and readers

test("a source that fails once it is left harms nobody", { timeout: 60_000 }, async () => {
  const sourceOf = (next) => {
    const pieces = { next, return: () => Promise.reject(new RangeError("too late")) };
    return { [Symbol.asyncIterator]: () => pieces };
  };
  const endless = sourceOf(async () => ({ done: false, value: new Uint8Array(1 << 16) }));
  await assert.rejects(boxOf(behind("full")).files.upload(endless, "left"), StorageFull);
  const abort = new AbortController();
  const late = sourceOf(async () => {
    abort.abort(new RangeError("enough"));
    return { done: false, value: new Uint8Array(1 << 16) };
  });
  await assert.rejects(box.files.upload(late, "left", { signal: abort.signal }), { message: "enough" });
  await box.refresh(); // what is rejected unheard would be told by now
});

/** Everything that is read. */
async function all(items) {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}

const boxOf = (client) => new Box(client.http, box.info);
const textOf = (chunks) => chunks.map((chunk) => chunk.text).join("");

test("two waits at once each have all of the output, once", async () => {
  const proc = await box.spawn("seq 20000");
  const [one, two] = await Promise.all([proc.wait(), proc.wait()]);
  const after = await proc.wait();
  assert.equal(one.stdout.length, 108_894);
  assert.deepEqual([two.stdout, after.stdout], [one.stdout, one.stdout]);
  assert.ok(one.ok && two.ok);
});

test("who waits beside another has a time limit of its own", async () => {
  const proc = await box.spawn("sleep 600");
  const abort = new AbortController();
  const first = proc.wait({ signal: abort.signal });
  await assert.rejects(proc.wait({ timeoutS: 0.1 }), Timeout);
  abort.abort();
  await assert.rejects(first, { name: "AbortError" });
  await proc.kill();
  assert.equal((await proc.wait()).signal, 15);
});

test("two readers of an attachment share its output, and both come to its end", { timeout: 60_000 }, async () => {
  const proc = await box.spawn(["cat"], { stdinOpen: true });
  const attached = await proc.attach();
  const reading = [all(attached), all(attached)];
  for (const word of ["one\n", "two\n", "three\n"]) await attached.write(word);
  await attached.sendEof();
  const [one, two] = await Promise.all(reading);
  const chunks = [...one, ...two].sort((a, b) => a.offset - b.offset);
  assert.equal(textOf(chunks), "one\ntwo\nthree\n");
  assert.equal(attached.exit.exit_code, 0);
  attached.close();
});

/** A way to the server that can be cut, and held up. `open` has the connections that are WebSockets. */
async function relay() {
  const { hostname, port } = new URL(process.env.BAY_URL);
  const open = new Set();
  const way = { open, held: null, cut: () => open.forEach((socket) => socket.destroy()) };
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.once("data", async (head) => {
      if (/upgrade: websocket/i.test(head)) {
        open.add(socket);
        await way.held;
      }
      const upstream = connect(Number(port), hostname);
      upstream.on("error", () => socket.destroy());
      upstream.on("close", () => socket.destroy());
      upstream.write(head);
      socket.pipe(upstream).pipe(socket);
    });
    socket.on("close", () => open.delete(socket));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  way.client = new Client({ baseUrl: `http://127.0.0.1:${server.address().port}` });
  way.close = () => server.close();
  return way;
}

test("a watch has no connection once its reader has left", { timeout: 60_000 }, async () => {
  const way = await relay();
  await box.files.mkdir("seen");
  const watch = await boxOf(way.client).files.watch("seen");
  await box.files.write("seen/one", "1");
  for await (const event of watch) {
    assert.equal(event.type, "created");
    break;
  }
  await until(() => way.open.size === 0);
  way.close();
});

test("a watch that is closed while it connects again has no connection", { timeout: 60_000 }, async () => {
  const way = await relay();
  const watch = await boxOf(way.client).files.watch("seen");
  const reading = all(watch);
  let release;
  way.held = new Promise((resolve) => (release = resolve));
  const before = new Set(way.open);
  way.cut();
  await until(() => [...way.open].some((socket) => !before.has(socket)));
  watch.close();
  release();
  await reading;
  await until(() => way.open.size === 0);
  way.close();
});

test("two readers of a watch connect again once", { timeout: 60_000 }, async () => {
  const way = await relay();
  const watch = await boxOf(way.client).files.watch("seen");
  const types = new Set();
  const reading = [0, 1].map(async () => {
    for await (const event of watch) types.add(event.type);
  });
  way.cut();
  await until(() => types.has("overflow"));
  await until(() => way.open.size === 1);
  watch.close();
  await Promise.all(reading);
  await until(() => way.open.size === 0);
  way.close();
});

test("the end of a tunnel that closes just then is no error", { timeout: 60_000 }, async () => {
  const made = [];
  const own = globalThis.WebSocket;
  globalThis.WebSocket = class extends EventTarget {
    readyState = 1;
    bufferedAmount = 0;
    constructor() {
      super();
      made.push(this);
      queueMicrotask(() => this.dispatchEvent(new Event("open")));
    }
    close() {}
  };
  try {
    const tunnel = await box.tunnel(80);
    made[0].readyState = 2; // the other side has said so, and it is not heard yet
    const ending = tunnel.sendEof();
    await new Promise(setImmediate);
    made[0].dispatchEvent(Object.assign(new Event("close"), { code: 1000, reason: "" }));
    await ending;
    await assert.rejects(tunnel.send("more"), Conflict);
    assert.equal((await tunnel.receive()).length, 0);
  } finally {
    globalThis.WebSocket = own;
  }
});

/** A server in Bay's place, closed at the end of the test, and a sandbox that a client of it knows. */
async function standIn(context, answer, options = {}) {
  const server = createHttpServer(answer);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const client = new Client({ baseUrl: `http://127.0.0.1:${server.address().port}`, ...options });
  return { server, client, box: boxOf(client) };
}

test("a call that breaks after longer than our patience is sent again, as often as it lasts", async (context) => {
  const keys = [];
  const own = await standIn(context, (request) => {
    keys.push(request.headers["idempotency-key"]);
    setTimeout(() => request.socket.destroy(), 300);
  }, { retryS: 0.2 });
  await assert.rejects(own.client.sandboxes.create(), ConnectionFailed);
  assert.equal(new Set(keys).size, 1);
  assert.ok(keys.length > 2, `${keys.length} requests`);
  keys.length = 0;
  await assert.rejects(own.box.shell("true"), ConnectionFailed);
  assert.equal(keys.length, 1);
});

test("an input whose close was answered into a broken connection is closed", async (context) => {
  const body = JSON.stringify({ error: { code: "conflict", message: "it has ended" } });
  let requests = 0;
  const own = await standIn(context, (request, response) => {
    if (request.method === "GET") return response.writeHead(200).end('{"id":"exec-1"}');
    requests += 1;
    return requests === 1 ? request.socket.destroy() : response.writeHead(409).end(body);
  });
  const proc = await own.box.execs.get("exec-1");
  await proc.closeStdin();
  assert.equal(requests, 2);
  await assert.rejects(proc.closeStdin(), Conflict); // no answer was lost: it has ended
});

test("a tunnel that is refused for too many connections says so at once", { timeout: 60_000 }, async (context) => {
  let handshakes = 0;
  const body = JSON.stringify({ error: { code: "quota_exceeded", message: "close one" } });
  const full = await standIn(context, (_, response) => response.writeHead(429).end(body), { retryS: 600 });
  full.server.on("upgrade", (_, socket) => {
    handshakes += 1;
    socket.end(`HTTP/1.1 429 Too Many Requests\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`);
  });
  await assert.rejects(full.box.tunnel(80), QuotaExceeded);
  await assert.rejects(full.box.terminal(), QuotaExceeded);
  await assert.rejects(full.box.files.watch(), QuotaExceeded);
  assert.equal(handshakes, 3);
});

test("text, bytes and blobs are sent whole, and bring no content type of their own", async (context) => {
  const heard = [];
  const own = await standIn(context, async (request, response) => {
    const { "content-length": length, "transfer-encoding": coding, "content-type": type } = request.headers;
    heard.push({ length, coding, type, text: Buffer.concat(await all(request)).toString() });
    response.end("{}");
  });
  const whole = ["é", new TextEncoder().encode("é"), new Blob(["é"], { type: "text/html" })];
  for (const content of whole) await own.box.ports.fetch(80, "/", { method: "POST", content });
  const one = { length: "2", coding: undefined, type: undefined, text: "é" };
  assert.deepEqual(heard.splice(0), [one, one, one]);
  await own.box.ports.fetch(80, "/", { method: "POST", content: new Blob(["é"]).stream() });
  assert.deepEqual(heard, [{ ...one, length: undefined, coding: "chunked" }]);
});

test("a large body that is sent whole is waited for longer", async (context) => {
  const slow = (request, response) => {
    request.resume();
    setTimeout(() => response.end('{"size": 1}'), 1000);
  };
  const own = await standIn(context, slow, { timeoutS: 0.2, retryS: 0 });
  assert.equal(await own.box.files.write("large", new Uint8Array(16 << 20)), 1);
  await assert.rejects(own.box.files.write("small", "x"), Timeout);
});

test("a platform that sends no streams sends no text in their place", async () => {
  const own = globalThis.Request;
  globalThis.Request = class {
    headers = new Headers({ "Content-Type": "text/plain;charset=UTF-8" });
  };
  try {
    const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;
    const before = timers();
    await assert.rejects(box.files.upload(new Blob(["x"]).stream(), "text"), InvalidArgument);
    assert.ok(timers() <= before, "a call that was refused keeps the program from its end");
    assert.equal(await box.files.upload(new Blob(["x"]), "text"), 1);
  } finally {
    globalThis.Request = own;
  }
});

// Signals

/** Calls that would wait for ever, each of which a signal ends. */
const WAITING = {
  "an answer": (deaf, signal) => deaf.refresh({ signal }),
  "a page": (deaf, signal) => all(deaf.execs.list({ signal })),
  "past events": (deaf, signal) => all(deaf.events({ follow: false, signal })),
  "live events": (deaf, signal) => all(deaf.events({ signal })),
  "a file": (deaf, signal) => deaf.files.readText("file", { signal }),
  "a listing": (deaf, signal) => all(deaf.files.walk(".", { signal })),
  "a start": (deaf, signal) => deaf.start({ wait: 600, signal }),
  "an archive": (deaf, signal) => all(deaf.exportCheckpoint("one", { signal })),
  "a service": (deaf, signal) => deaf.services.waitReady("web", { signal }),
  "input that is taken": (deaf, signal) => new Proc(deaf.http, deaf.id, { id: "exec-1" }).write("x", { signal }),
  "a stream that is taken": (deaf, signal) => deaf.files.upload(new Blob(["x"]).stream(), "file", { signal }),
  "an attachment": (deaf, signal) => deaf.terminal({ signal }),
  "a watch": (deaf, signal) => deaf.files.watch(".", { signal }),
  "a tunnel": (deaf, signal) => deaf.tunnel(80, { signal }),
};

for (const [name, call] of Object.entries(WAITING)) {
  test(`a signal ends the wait for ${name}`, { timeout: 60_000 }, async () => {
    const abort = new AbortController();
    const waiting = call(boxOf(behind("mute")), abort.signal);
    waiting.catch(() => undefined);
    await new Promise(setImmediate);
    abort.abort(new RangeError("enough"));
    await assert.rejects(waiting, { message: "enough" });
  });
}

test("a signal ends a wait that asks again and again", { timeout: 60_000 }, async () => {
  const abort = new AbortController();
  const waiting = [
    box.waitFor(1, { timeoutS: 600, signal: abort.signal }),
    all(behind("", { retryS: 600, baseUrl: "http://127.0.0.1:1" }).events({ signal: abort.signal })),
  ];
  for (const one of waiting) one.catch(() => undefined);
  await box.refresh();
  abort.abort(new RangeError("enough"));
  for (const one of waiting) await assert.rejects(one, { message: "enough" });
});

test("an upload that is over is not kept by its signal", async () => {
  const { signal } = new AbortController();
  const given = [];
  const own = globalThis.fetch;
  const heard = () => given.map((one) => getEventListeners(one, "abort").length);
  globalThis.fetch = async (_, init) => {
    given.push(init.signal);
    assert.deepEqual(heard().slice(-1), [1]);
    for await (const _ of init.body);
    return new Response('{"size": 1}');
  };
  try {
    await box.files.upload([new Uint8Array(1)], "whole", { signal });
    const broken = (async function* () {
      throw new RangeError("no more");
    })();
    await assert.rejects(box.files.upload(broken, "broken", { signal }));
  } finally {
    globalThis.fetch = own;
  }
  assert.deepEqual(heard(), [0, 0]);
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

test("a call whose signal is aborted already asks for nothing", async (context) => {
  let requests = 0;
  const own = await standIn(context, (_, response) => {
    requests += 1;
    response.writeHead(404).end("{}");
  });
  const signal = AbortSignal.abort(new RangeError("enough"));
  await assert.rejects(own.client.sandbox({ signal }), { message: "enough" });
  await assert.rejects(own.client.sandbox({ image: "debian:13", signal }), { message: "enough" });
  await assert.rejects(own.box.run("true", { signal }), { message: "enough" });
  await assert.rejects(own.box.spawn("true", { signal }), { message: "enough" });
  assert.equal(requests, 0);
});

test("a signal ends one read of an attachment, and the next goes on", { timeout: 60_000 }, async () => {
  const proc = await box.spawn(["cat"], { stdinOpen: true });
  const attached = await proc.attach();
  const abort = new AbortController();
  const reading = attached.read(undefined, { signal: abort.signal });
  abort.abort(new RangeError("enough"));
  await assert.rejects(reading, { message: "enough" });
  await attached.write("still here");
  assert.equal((await attached.read()).text, "still here");
  await assert.rejects(attached.write("x", { signal: abort.signal }), { message: "enough" });
  attached.close();
  await proc.kill();
});

test("a signal ends a watch", { timeout: 60_000 }, async () => {
  const abort = new AbortController();
  const watch = await box.files.watch(".", { signal: abort.signal });
  const reading = all(watch);
  abort.abort(new RangeError("enough"));
  await assert.rejects(reading, { message: "enough" });
});

test("a signal closes a watch that has no reader", { timeout: 60_000 }, async () => {
  const way = await relay();
  const abort = new AbortController();
  const watch = await boxOf(way.client).files.watch(".", { signal: abort.signal });
  assert.equal(way.open.size, 1);
  abort.abort(new RangeError("enough"));
  await until(() => way.open.size === 0);
  await assert.rejects(all(watch), { message: "enough" });
  const closed = await box.files.watch(".", { signal: new AbortController().signal });
  closed.close();
  assert.deepEqual(await all(closed), []);
  way.close();
});

const TWO = [{ id: "one" }, { id: "two" }];
/** Lists that come in one answer. */
const LISTS = {
  "a page": (own, signal) => own.client.keys.list({ signal }),
  "a page by offset": (own, signal) => own.client.skills.releases({ signal }),
  "a listing": (own, signal) => own.box.files.walk(".", { signal }),
};

for (const [name, list] of Object.entries(LISTS)) {
  test(`a signal ends ${name} between two of its items`, { timeout: 60_000 }, async (context) => {
    const own = await standIn(context, ({ url }, response) => {
      if (!url.includes("/files/")) response.end(JSON.stringify({ items: TWO, total: 2 }));
      else response.end([...TWO.map(({ id }) => ({ name: id })), { truncated: false }].map(JSON.stringify).join("\n") + "\n");
    });
    assert.equal((await all(list(own))).length, 2);
    const abort = new AbortController();
    let items = 0;
    const reading = async () => {
      for await (const _ of list(own, abort.signal)) {
        items += 1;
        abort.abort(new RangeError("enough"));
      }
    };
    await assert.rejects(reading, { message: "enough" });
    assert.equal(items, 1);
  });
}

test("a reader whose signal was aborted gets nothing more", { timeout: 60_000 }, async () => {
  const proc = await box.spawn("seq 100000");
  const abort = new AbortController();
  let chunks = 0;
  const reading = async () => {
    for await (const _ of proc.output({ signal: abort.signal })) {
      chunks += 1;
      abort.abort(new RangeError("enough"));
    }
  };
  await assert.rejects(reading, { message: "enough" });
  assert.equal(chunks, 1);
});
