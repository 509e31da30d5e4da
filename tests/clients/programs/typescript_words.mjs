// The words of `scenarios.toml` for the TypeScript SDK: one scenario a line comes in, its results go out.
//
// A result is what a step gives, or `{"fails": CODE}`. The lines are JSON. The first that goes out has the words.

import { createHash } from "node:crypto";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { isDeepStrictEqual } from "node:util";
import { BayError, Client, verifyWebhook } from "../../../clients/typescript/dist/index.js";

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
  chown_to_itself: async ({ box }, _, { path }) => {
    const { uid, gid } = await box.files.stat(path);
    const { uid: user, gid: group } = await box.files.chown(path, uid, gid);
    return { is_it: uid === user && gid === group };
  },
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
    bytes: await box.files.writeArchive(await box.files.readArchive(source), destination),
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

  checkpoint: async ({ box }, _, { name, memory }) => {
    const made = await box.checkpoint({ name, memory });
    return { name: made.name, number: made.number };
  },
  restore: async ({ box }, _, { checkpoint, memory }) => void (await box.restore(checkpoint, { memory })),
  delete_checkpoint: ({ box }, _, { checkpoint }) => box.deleteCheckpoint(checkpoint),
  fork: async ({ box }, _, { checkpoint, memory, path }) => {
    const forks = await box.fork({ checkpoint, memory });
    try {
      return { text: await forks[0].files.readText(path) };
    } finally {
      await forks[Symbol.asyncDispose]();
    }
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

  // What an owner has

  create_box: ({ client }, _, step) => client.sandboxes.create({ ...camel(step), wait: 60 }),
  create_box_on: ({ client }, cargo) => client.sandboxes.create({ cargoId: cargo.id, wait: 60 }),
  sandbox_of_image: async ({ client }, _, { image }) => {
    const box = await client.sandbox({ image });
    await box.delete();
    return { image: box.info.image, status: box.info.status };
  },
  delete_box: (_, box) => box.delete(),
  run_in: async (_, box, { command }) => ofRun(await box.run(command)),
  set_secret: async ({ client }, _, { name, value }) => ({ name: (await client.secrets.set(name, value)).name }),
  list_secrets: async ({ client }) => ({ names: namesOf(await client.secrets.list()) }),
  delete_secret: ({ client }, _, { name }) => client.secrets.delete(name),
  create_key: ({ client }, _, { name, ...options }) => client.keys.create(name, camel(options)),
  of_key: (_, { scope, quotas, secret, expires_at }) => ({
    scope, running: quotas?.running, has_secret: secret !== null, expires: expires_at !== null,
  }),
  create_with_key: async ({ url }, { secret }) => {
    await new Client({ baseUrl: url, apiKey: secret }).sandboxes.create();
  },
  connect_with_key: async ({ box, url }, { secret }, { to }) => {
    const own = await new Client({ baseUrl: url, apiKey: secret, retryS: 600 }).sandboxes.get(box.id);
    (to === "tunnel" ? await own.tunnel(1) : await own.terminal()).close();
  },
  list_keys: async ({ client }, _, step) => {
    const found = (await all(client.keys.list(step))).filter((key) => key.revoked_at === null);
    return { scopes: found.map((key) => key.scope), has_secret: found.some((key) => "secret" in key) };
  },
  revoke_key: ({ client }, key) => client.keys.revoke(key.id),
  create_cargo: ({ client }, _, step) => client.cargos.create(camel(step)),
  create_cargo_of: async ({ client, box }, _, { checkpoint }) =>
    client.cargos.create({ fromCheckpoint: await box.getCheckpoint(checkpoint) }),
  get_cargo: async ({ client }, { id }) => ({ managed: (await client.cargos.get(id)).managed }),
  update_cargo: async ({ client }, { id }, step) => ({
    size_limit_mb: (await client.cargos.update(id, camel(step))).size_limit_mb,
  }),
  list_cargos: async ({ client }, { id }, step) => {
    const found = await all(client.cargos.list(step));
    return { is_listed: found.some((one) => one.id === id), managed: [...new Set(found.map((one) => one.managed))] };
  },
  move_cargo: async ({ client, box }, { id }) => ({
    is_its: (await client.cargos.move(id, box.id)).sandbox_ids.includes(box.id),
  }),
  delete_cargo: ({ client }, { id }) => client.cargos.delete(id),
  create_webhook: ({ client }, _, { url, types }) => client.webhooks.create(url, types),
  get_webhook: async ({ client }, { id, secret }) => {
    const found = await client.webhooks.get(id);
    return { types: found.types, has_secret: Boolean(found.secret) || !secret };
  },
  list_webhooks: async ({ client }) => ({ urls: (await client.webhooks.list()).map((hook) => hook.url) }),
  delete_webhook: ({ client }, { id }) => client.webhooks.delete(id),
  verify_webhook: async (_, __, { secret, now, id, timestamp, signature }) => {
    const given = { "Webhook-Id": id, "Webhook-Timestamp": [timestamp], "Webhook-Signature": signature };
    const headers = { ":method": "POST", "webhook-id": undefined, ...given }; // as node:http2 has them
    return { type: (await verifyWebhook(secret, headers, BODY, { now })).type };
  },
  login: async ({ client }, _, { host, username, password }) => {
    const made = await client.registries.login(host, username, password);
    return { host: made.host, username: made.username, has_password: "password" in made };
  },
  list_logins: async ({ client }) => ({ hosts: (await client.registries.list()).map((one) => one.host) }),
  logout: ({ client }, _, { host }) => client.registries.logout(host),
  metrics: async ({ box }, _, { between = {}, ...step }) => {
    const range = Object.fromEntries(Object.entries(between).map(([name, at]) => [name, new Date(at)]));
    const found = await box.metrics({ ...range, ...step });
    return { step: found.step, points: found.points.length };
  },
  audit: async ({ client, box }, _, step) => ({
    seen: seenOf(await all(client.audit.list({ resourceId: box.id, ...step }))),
  }),
  audit_from_the_last_on: async ({ client, box }) => {
    const asked = { resourceId: box.id, method: "PATCH" };
    const { at } = (await all(client.audit.list(asked))).at(-1);
    const before = await all(client.audit.list({ ...asked, until: at }));
    return { seen: seenOf(await all(client.audit.list({ ...asked, since: at }))), before: before.length };
  },
  pool: async ({ client }) => ({ is_list: Array.isArray(await client.admin.pool()) }),
  collect_garbage: async ({ client }, _, { tasks }) => {
    const done = await client.admin.collectGarbage(tasks);
    return { tasks: done.results.map((one) => one.task_name), total_errors: done.total_errors };
  },
  garbage_state: async ({ client }) => {
    const { is_running, results } = await client.admin.garbageState();
    return { is_running, tasks: results.map((one) => one.task_name) };
  },
  replicas: async ({ client }) => {
    const { items, unheld } = await client.admin.replicas();
    const shards = items.flatMap((one) => one.shards).length;
    return { own: items.map((one) => one.is_self), shards, unheld: unheld.length };
  },
  host: async ({ client }) => {
    const { driver, load, storage, sandboxes } = await client.admin.host();
    const sum = Object.values(sandboxes.by_compute).reduce((all, one) => all + one, 0);
    return { driver, load: load.length, has_storage: storage !== null, adds_up: sum === sandboxes.total };
  },
  settings: async ({ client }) => {
    const found = new Map((await client.admin.settings()).map((one) => [one.name, [one.is_secret, one.is_set]]));
    return { api_key: found.get("api_key"), port: found.get("port") };
  },
  shell: async ({ box }, _, { command, ...options }) => {
    const { success, exit_code, output } = await box.shell(command, camel(options));
    return { success, exit_code, output };
  },
  history: async ({ box }, _, step) => ({ codes: (await box.history(camel(step))).map((entry) => entry.code) }),
  last_execution: async ({ box }) => void (await box.lastExecution()),
  annotate_last: async ({ box }, _, step) => {
    const last = await box.lastExecution({ execType: "shell" });
    const noted = await box.annotate(last.id, step);
    return { notes: noted.notes, is_it: isDeepStrictEqual(await box.historyEntry(last.id), noted) };
  },
  history_entry: async ({ box }, _, { id }) => void (await box.historyEntry(id)),
  keep_payload: ({ client }, _, { payload, kind }) => client.skills.keep(payload, { kind }),
  payload: async ({ client }, ref) => {
    const { kind, payload } = await client.skills.payload(ref);
    return { kind, payload };
  },
  delete_payload: ({ client }, ref) => client.skills.deletePayload(ref),
  create_candidate: async ({ client, box }, _, { skill_key, ...options }) => {
    const source = (await box.shell("true")).execution_id;
    return (await client.skills.create(skill_key, [source], camel(options))).id;
  },
  candidate: async ({ client }, id) => {
    const { status, summary, source_execution_ids } = await client.skills.candidate(id);
    return { status, summary, sources: source_execution_ids.length };
  },
  candidates: async ({ client }, _, step) => ({
    statuses: (await all(client.skills.candidates(camel(step)))).map((one) => one.status),
  }),
  evaluate: async ({ client }, id, step) => {
    const { score, passed } = await client.skills.evaluate(id, camel(step));
    return { score, passed };
  },
  promote: async ({ client }, id, step) => (await client.skills.promote(id, camel(step))).id,
  releases: async ({ client }, _, step) => {
    const versions = (await all(client.skills.releases(camel(step)))).map((one) => one.version);
    return { back: versions.map((version) => versions[0] - version) };
  },
  skill_health: async ({ client }, id) => {
    const { samples, stage } = await client.skills.health(id);
    return { samples, stage };
  },
  rollback: async ({ client }, id) => (await client.skills.rollback(id)).id,
  delete_candidate: async ({ client }, id, step) => ({
    delete_reason: (await client.skills.deleteCandidate(id, step)).delete_reason,
  }),
  delete_release: async ({ client }, id, step) => ({
    delete_reason: (await client.skills.deleteRelease(id, step)).delete_reason,
  }),
  browser: async ({ box }, other, { cmd, ...options }) => {
    const { browser } = other ?? box;
    const { success, output, exit_code, trace_ref } = await browser.exec(cmd, camel(options));
    return { success, output, exit_code, trace: trace_ref && (await browser.trace(trace_ref)).trace.commands };
  },
  browser_batch: async (_, box, { commands, ...options }) => {
    const { success, completed_steps, results } = await box.browser.execBatch(commands, camel(options));
    return { success, completed_steps, codes: results.map((one) => one.exit_code) };
  },
  run_skill: async (_, box, { skill_key }) => void (await box.browser.runSkill(skill_key)),
  trace: async (_, box, { ref }) => void (await box.browser.trace(ref)),
  tunnel: async ({ box }, _, { port, data, times = 1 }) => {
    if (port === "echo") port = Number((await first(await box.spawn(["python3", "-c", ECHO]))).text);
    const tunnel = await box.tunnel(port);
    const sending = new Blob([data.repeat(times)]).stream().pipeTo(tunnel.writable);
    const [received] = await Promise.all([new Response(tunnel.readable).text(), sending]);
    tunnel.close();
    return { text: received, bytes: received.length };
  },
  pull_image: async ({ client }, _, { ref, ...options }) => {
    const told = [];
    const progress = ({ state }) => void told.push(state);
    return { made: await client.images.pull(ref, { ...camel(options), progress }), told };
  },
  import_image: async ({ client }, _, { data, ref }) => ({ made: await client.images.importArchive(data, ref) }),
  image: async ({ client }, { made, told }) => {
    const { state, ref, source } = await client.images.get(made.id);
    return { state, ref, source, told };
  },
  get_image: async ({ client }, _, { ref }) => void (await client.images.get(ref)),
  delete_image: ({ client }, _, { ref }) => client.images.delete(ref),
  export_image: async ({ client }, _, { ref }) => {
    const parts = [];
    const size = await client.images.export(ref, new WritableStream({ write: (part) => void parts.push(part) }));
    const data = new Uint8Array(await new Blob(parts).arrayBuffer());
    return { is_whole: size === data.length && size > 1024 && data.subarray(-1024).every((byte) => byte === 0) };
  },
  list_images: async ({ client }, _, step) => ({ refs: refsOf(await all(client.images.list(step))) }),
  prune_images: async ({ client }, _, step) => ({ refs: refsOf(await client.images.prune(camel(step))) }),
  get_template: async ({ client }, _, { ref }) => ofTemplate(await client.templates.get(ref)),
  template_log: async ({ client }, _, { ref }) => void (await client.templates.log(ref)),
  update_template: async ({ client }, _, { ref, ...changes }) =>
    ofTemplate(await client.templates.update(ref, camel(changes))),
  tag_template: async ({ client }, _, { ref, target }) => ofTemplate(await client.templates.tag(ref, target)),
  delete_template: ({ client }, _, { ref }) => client.templates.delete(ref),
  list_templates: async ({ client }, _, step) => ({ names: namesOf(await all(client.templates.list(step))) }),
  create_template: async ({ client, box }, other, { name, ...options }) =>
    ofTemplate(await client.templates.create(name, (other ?? box).id, camel(options))),
  build: async ({ client }, _, { files, name, ...options }) => {
    const root = await mkdtemp(join(tmpdir(), "build-"));
    let logged = "";
    try {
      for (const [file, text] of Object.entries(files)) {
        await mkdir(dirname(join(root, file)), { recursive: true });
        await writeFile(join(root, file), text);
      }
      const log = (part) => void (logged += part);
      const made = await client.templates.build(root, name, { ...camel(options), log });
      return { ...ofTemplate(made), logged: logged !== "" && (await client.templates.log(made.id)) === logged };
    } finally {
      await rm(root, { recursive: true });
    }
  },
};

const BODY = '{"id":"1","type":"sandbox.ready","at":"2026-01-01T00:00:00Z","sandbox_id":"sandbox-1","data":{}}';
const ECHO = `
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
client, _ = server.accept()
while data := client.recv(65536):
    client.sendall(data)
client.shutdown(socket.SHUT_WR)
`;

// What results have

const seenOf = (entries) => entries.map((entry) => [entry.status, entry.code ?? "none"]);
const ofTemplate = ({ name, tag, state }) => ({ name, tag, state });
const refsOf = (images) => images.map((one) => one.ref);

async function first(items) {
  for await (const item of items) return item;
}

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
