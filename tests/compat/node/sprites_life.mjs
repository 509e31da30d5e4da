// A program of the client `@fly/sprites`: sprites come and go, and commands run in them.
import assert from 'node:assert/strict';
import { SpritesClient } from '@fly/sprites';

const client = new SpritesClient(process.env.BAY_API_KEY, { baseURL: process.env.BAY_URL });

const watch = await client.watchSprites({ prefix: 'node' });
const made = await client.createSprite('node', { labels: ['a'] });
await assert.rejects(client.createSprite('node'), (error) => error.statusCode === 409);
let seen = await watch.next();
while (!seen.name) seen = await watch.next(); // heartbeats have none
assert.deepEqual([seen.name, seen.status], ['node', 'cold']);
watch.close();
assert.deepEqual((await client.listAllSprites('no')).map((one) => one.id), [made.id]);
assert.deepEqual((await client.updateSprite('node', { labels: ['b'] })).labels, ['b']);
assert.equal((await client.checkSprite('node')).status, 'healthy');

// A cold sprite wakes during the handshake of its first command.
const sprite = client.sprite('node');
assert.equal((await sprite.exec('echo hello')).stdout, 'hello\n');
for (let number = 0; number < 20; number += 1) {
  assert.equal((await sprite.execFile('echo', [`${number}`])).stdout, `${number}\n`);
}
const failure = await sprite.execFile('sh', ['-c', 'echo why >&2; exit 3']).catch((error) => error);
assert.deepEqual([failure.exitCode, failure.stderr], [3, 'why\n']);
const overHttp = await sprite.execFileHTTP('sh', ['-c', 'cat; echo err >&2'], { input: 'in' });
assert.deepEqual([overHttp.stdout, overHttp.stderr, overHttp.exitCode], ['in', 'err\n', 0]);

// Input, environment, directory.
const cat = sprite.spawn('sh', ['-c', 'cat; echo $A; pwd'], { env: { A: 'b c' }, cwd: '/tmp' });
let read = '';
cat.stdout.on('data', (chunk) => { read += chunk; });
cat.on('spawn', () => cat.stdin.end('x'.repeat(200_000)));
assert.equal(await cat.wait(), 0);
assert.equal(read, `${'x'.repeat(200_000)}b c\n/tmp\n`);

// A session on a terminal is left, found again, resized and ended.
const shell = sprite.createSession('sh', [], { rows: 30, cols: 100 });
const id = await new Promise((resolve) => {
  shell.on('message', (message) => message.type === 'session_info' && resolve(message.session_id));
});
assert.equal((await sprite.listSessions()).find((one) => one.id === id).tty, true);
shell.wsCmd.close();
await shell.wait();
const again = sprite.attachSession(id);
const until = (wanted) => new Promise((resolve) => {
  let text = '';
  again.stdout.on('data', (chunk) => { text += chunk; if (text.includes(wanted)) resolve(text); });
});
await new Promise((resolve) => { again.on('spawn', resolve); });
const sized = until('20 90');
again.resize(90, 20);
again.stdin.write('stty size\r');
await sized;
again.stdin.write('exit 5\r');
assert.notEqual(await again.wait(), 0);

// A kill tells of its steps.
const sleeper = sprite.spawn('sleep', ['100']);
await new Promise((resolve) => { sleeper.on('message', resolve); sleeper.on('spawn', resolve); });
let found;
while (!found) found = (await sprite.listSessions()).find((one) => one.command === 'sleep 100');
const steps = [];
for await (const step of await sprite.killSession(found.id, 'SIGTERM', '60s')) steps.push(step.type);
assert.deepEqual(steps, ['signal', 'exited', 'complete']);
assert.equal(await sleeper.wait(), 143);

assert.equal((await sprite.restart()).spriteName, 'node');
await sprite.delete();
await assert.rejects(client.getSprite('node'), (error) => error.errorCode === 'sprite not found');
console.log('done');
