// The words of `scenarios.toml` for the TypeScript SDK: one scenario a line comes in, its results go out.
//
// A result is what a step gives, or `{"fails": CODE}`. The lines are JSON. The first that goes out has the words.

import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { BayError, Client } from "../../../clients/typescript/dist/index.js";

const decoder = new TextDecoder();

/** Arguments with their names in camelCase. */
function camel(step) {
  const name = (text) => text.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
  return Object.fromEntries(Object.entries(step).map(([key, value]) => [name(key), value]));
}

const WORDS = {
  // Commands

  run: async ({ box }, _, { command, ...options }) => ofRun(await box.run(command, camel(options))),
  spawn: ({ box }, _, { command, ...options }) => box.spawn(command, camel(options)),
  reattach: async ({ client, box }, proc) => (await client.sandboxes.get(box.id)).execs.get(proc.id),
  first: async (_, proc) => {
    for await (const { offset, stream, text } of proc) return { offset, stream, text };
  },
  output: async (_, proc, step) => {
    const chunks = await all(proc.output(camel(step)));
    const { exit_code, state } = proc.info;
    return { text: text(chunks), first_offset: chunks[0]?.offset, exit_code, state };
  },
  wait: async (_, proc) => ofRun(await proc.wait({ timeoutS: 60 })),
  write: (_, proc, { data }) => proc.write(data),
  close_stdin: (_, proc) => proc.closeStdin(),
  signal: async (_, proc, { signal }) => void (await proc.signal(signal)),
  kill: async (_, proc) => ({ state: (await proc.kill()).state }),
  attach: async (_, proc, { since, data }) => {
    const attached = await proc.attach({ since });
    if (data !== undefined) {
      await attached.write(data);
      await attached.sendEof();
    }
    const shown = text(await all(attached));
    attached.close();
    return { text: shown, exit_code: attached.exit?.exit_code, offset: attached.offset };
  },
  terminal: async ({ box }, _, { rows, cols, data, shows }) => {
    const attached = await box.terminal({ rows, cols });
    await attached.write(data);
    const shown = text(await all(attached)).includes(shows);
    attached.close();
    return { shown, exit_code: attached.exit?.exit_code };
  },
  digest: (_, proc) => digestOf(map(proc.output(), (chunk) => chunk.data)),
  digest_attached: async (_, proc) => digestOf(map(await proc.attach(), (chunk) => chunk.data)),

  // Files

  write_file: async ({ box }, _, { path, data }) => ({ size: await box.files.write(path, data) }),
  read_file: async ({ box }, _, { path, ...options }) => ({ text: decoder.decode(await box.files.read(path, options)) }),
  digest_file: ({ box }, _, { path }) => digestOf(box.files.stream(path)),
  edit_file: async ({ box }, _, step) => ({
    replaced: await box.files.edit(step.path, step.old, step.new, { all: step.all }),
  }),
  copy_file: async ({ box }, _, { source, destination }) => ofFile(await box.files.copy(source, destination)),
  move_file: async ({ box }, _, { source, destination }) => ofFile(await box.files.move(source, destination)),
  mkdir: async ({ box }, _, { path }) => ofFile(await box.files.mkdir(path)),
  chmod: async ({ box }, _, { path, mode }) => ofFile(await box.files.chmod(path, mode)),
  stat: async ({ box }, _, { path }) => ofFile(await box.files.stat(path)),
  list_files: async ({ box }, _, { path }) => ({ names: namesOf(await box.files.list(path)) }),
  walk_files: async ({ box }, _, { path }) => ({ names: namesOf(await all(box.files.walk(path))) }),
  glob: async ({ box }, _, { pattern }) => ({ names: namesOf(await box.files.glob(pattern)) }),
  search: async ({ box }, _, { query, ...options }) => {
    const { matches, truncated } = await box.files.search(query, camel(options));
    return { lines: matches.map((one) => `${last(one.path)}:${one.line}:${one.text}`), truncated };
  },
  delete_file: ({ box }, _, { path, ...options }) => box.files.delete(path, options),
  exists: async ({ box }, _, { path }) => ({ exists: await box.files.exists(path) }),
  copy_archive: async ({ box }, _, { source, destination }) => ({
    bytes: await box.files.unpack(new Blob(await all(box.files.archive(source))), destination),
  }),
  watch: async ({ box }, _, { path, write }) => {
    const watch = await box.files.watch(path);
    await box.files.write(write, "new");
    for await (const event of watch) {
      watch.close();
      return { type: event.type, name: last(event.path) };
    }
  },

  // Kernels

  python: ({ box }, _, step) => ofCell(box.python, step),
  python_events: async ({ box }, _, { code }) => ({
    types: (await all(box.python.stream(code))).map((event) => event.type),
  }),
  create_kernel: ({ box }) => box.kernels.create(),
  kernel_python: (_, kernel, step) => ofCell(kernel, step),
  restart_kernel: async (_, kernel) => void (await kernel.restart()),
  delete_kernel: (_, kernel) => kernel.delete(),
  refresh_kernel: async (_, kernel) => void (await kernel.refresh()),

  // The sandbox

  checkpoint: async ({ box }, _, { name }) => {
    const made = await box.checkpoint({ name });
    return { name: made.name, number: made.number };
  },
  restore: async ({ box }, _, { checkpoint }) => void (await box.restore(checkpoint)),
  delete_checkpoint: ({ box }, _, { checkpoint }) => box.deleteCheckpoint(checkpoint),
  fork: async ({ box }, _, { checkpoint, path }) => {
    const [made] = await box.fork({ checkpoint });
    const text = await made.files.readText(path);
    await made.delete();
    return { text };
  },
  set_network: async ({ box }, _, { mode, rules }) => ofPolicy(await box.network.set(mode, rules)),
  get_network: async ({ box }) => ofPolicy(await box.network.get()),
  reset_network: async ({ box }) => ofPolicy(await box.network.reset()),
  put_service: async ({ box }, _, { name, argv, wait }) => ({
    state: (await box.services.put({ name, argv }, { wait })).state,
  }),
  service_logs: async ({ box }, _, step) => {
    let text = "";
    for await (const chunk of box.services.logs(step.name, { follow: true })) {
      text += chunk.text;
      if (text.endsWith(step.text)) break;
    }
    return { text };
  },
  stop_service: async ({ box }, _, { name }) => void (await box.services.stop(name)),
  delete_service: ({ box }, _, { name }) => box.services.delete(name),
  get_service: async ({ box }, _, { name }) => void (await box.services.get(name)),
  set_access: async ({ box }, _, { port, access }) => ({ access: (await box.ports.setAccess(port, access)).access }),
  forget_port: ({ box }, _, { port }) => box.ports.forget(port),
  link: async ({ box }, _, { port }) => {
    const { once, url } = await box.ports.link(port);
    return { once, has_url: url.startsWith("http") };
  },
  url: async ({ box }, _, { port }) => ({ url: await box.url(port) }),
  update: async ({ box }, _, step) => ({ name: (await box.update(camel(step))).name }),
  get: async ({ client, box }, _, { name }) => ({ is_it: (await client.sandboxes.get(name)).id === box.id }),
  list: async ({ client }, _, step) => ({ names: namesOf(await all(client.sandboxes.list(camel(step)))) }),
  create: async ({ client, box }, _, step) => ({ is_it: (await client.sandboxes.create(camel(step))).id === box.id }),
  create_twice: async ({ client }) => {
    const one = await client.sandboxes.create({ idempotencyKey: "key-of-a-scenario-in-typescript" });
    const two = await client.sandboxes.create({ idempotencyKey: "key-of-a-scenario-in-typescript" });
    await one.delete();
    return { is_one: one.id === two.id };
  },
  pause: async ({ box }) => ({ compute: (await box.pause()).compute }),
  stop: ({ box }) => box.stop(),
  with_another_key: async ({ box, url }) => {
    await new Client({ baseUrl: url, apiKey: "bay_unknown" }).sandboxes.get(box.id);
  },
  events_until_deleted: async ({ client, box }) => {
    await box.delete();
    return { types: (await all(client.events({ since: "0", sandbox: box.id }))).map((event) => event.type) };
  },
};

// What results have

function ofRun(result) {
  const { stderr, exitCode, signal, timedOut, ok, returncode, outcome, omittedBytes, stdoutBytes } = result;
  return {
    stderr, signal, ok, returncode, outcome, exit_code: exitCode, timed_out: timedOut, omitted_bytes: omittedBytes,
    stdout: stdoutBytes.length < 1000 ? result.stdout : null, stdout_bytes: stdoutBytes.length,
  };
}

async function ofCell(kernel, { code, check, ...options }) {
  const result = await kernel.run(code, camel(options));
  if (check) result.check();
  const { text, stdout, stderr, status, ok, restarted } = result;
  return {
    text, stdout, stderr, status, ok, restarted, ...(!ok && { outcome: result.outcome }),
    results: result.results.map((bundle) => Object.keys(bundle).sort()),
    images: result.images.map((image) => image.mediaType),
    ename: result.error?.ename ?? null,
    lines: stdout.split("\n").length - 1,
  };
}

const ofFile = ({ name, type, size, mode }) => ({ name, type, size, mode });
const ofPolicy = ({ mode, rules }) => ({ mode, domains: rules.map((rule) => rule.domain) });
const namesOf = (things) => things.map((one) => one.name);
const last = (path) => path.split("/").pop();
const text = (chunks) => chunks.map((chunk) => chunk.text).join("");

async function all(items) {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}

async function* map(items, of) {
  for await (const item of items) yield of(item);
}

async function digestOf(pieces) {
  const found = createHash("sha256");
  let bytes = 0;
  for await (const piece of pieces) {
    found.update(piece);
    bytes += piece.length;
  }
  return { bytes, sha256: found.digest("hex") };
}

// The loop

/** What one step gives. */
async function take(stage, { do: name, as, of, ...step }) {
  try {
    const given = await WORDS[name](stage, stage.things[of], step);
    if (as === undefined) return given ?? null;
    stage.things[as] = given;
    return null;
  } catch (error) {
    if (error instanceof BayError) return { fails: error.code, words: error.message };
    throw error;
  }
}

/** The results of a scenario. Its sandbox is made before any connection is cut, and deleted after. */
async function perform({ url, through, key, steps }, lines) {
  const direct = new Client({ baseUrl: url, apiKey: key });
  const box = await direct.sandbox();
  try {
    const client = new Client({ baseUrl: through, apiKey: key, retryS: 60 });
    const stage = { client, url, box: await client.sandboxes.get(box.id), things: {} };
    answer({ ready: true });
    await lines.next();
    const results = [];
    for (const step of steps) results.push(await take(stage, step));
    return results;
  } finally {
    await box.delete();
  }
}

const answer = (what) => console.log(JSON.stringify(what));

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
answer({ words: Object.keys(WORDS).sort() });
for (let line = await lines.next(); !line.done; line = await lines.next()) {
  answer({ results: await perform(JSON.parse(line.value), lines) });
}
