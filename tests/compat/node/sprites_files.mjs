// A program of the client `@fly/sprites`: files and their changes, checkpoints, a service, ports, a proxy.

import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { SpritesClient } from '@fly/sprites';

const client = new SpritesClient(process.env.BAY_API_KEY, { baseURL: process.env.BAY_URL });
const sprite = await client.createSprite('files-js');

const fs = sprite.filesystem('/home/sprite');
await fs.mkdir('src', { recursive: true });
await fs.writeFile('src/a.txt', 'one', { mode: 0o640 });
assert.equal(await fs.readFile('src/a.txt', 'utf8'), 'one');
const stat = await fs.stat('src/a.txt');
assert.deepEqual([stat.size, stat.mode, stat.isFile()], [3, 0o640, true]);
await fs.appendFile('src/a.txt', ' two');
await fs.copyFile('src', 'copy', { recursive: true });
await fs.rename('copy/a.txt', 'copy/b.txt');
await fs.chmod('copy', 0o755, { recursive: true });
assert.deepEqual(await fs.readdir('copy'), ['b.txt']);
assert.equal(await fs.exists('none'), false);
await assert.rejects(fs.readFile('none'), { code: 'ENOENT' });
await assert.rejects(fs.readFile('src'), { code: 'EISDIR' });
await assert.rejects(fs.rm('copy'), { code: 'ENOTEMPTY' });
await fs.chown('src', { uid: 0, gid: 'root', recursive: true });
await assert.rejects(fs.appendFile('src/a.txt', '!'), { code: 'EACCES' });
await fs.copyFile('src/a.txt', 'src/b.txt', { asRoot: true });
await fs.rm('src/b.txt', { asRoot: true });
await fs.chown('src', { uid: 'sprite', gid: 'sprite', recursive: true });

const watcher = await fs.watch('src', { recursive: true });
assert.equal((await watcher.next()).type, 'subscribed');
await fs.writeFile('src/new.txt', 'x');
for (let event = await watcher.next(); event.path !== '/home/sprite/src/new.txt'; ) event = await watcher.next();
watcher.close();

// A checkpoint, and back to it.
const told = [];
await (await sprite.createCheckpoint('first')).processAll(message => told.push(message.data));
assert(told.includes('  ID: v1'), told);
await fs.rm('src', { recursive: true });
for await (const message of await sprite.restoreCheckpoint('v1')) assert.notEqual(message.type, 'error');
assert.equal(await fs.readFile('src/a.txt', 'utf8'), 'one two');
assert.deepEqual((await sprite.listCheckpoints()).map(one => one.id), ['Current', 'v1']);
assert.equal((await sprite.getCheckpoint('v1')).comment, 'first');
await assert.rejects(sprite.getCheckpoint('v7'), /not found/i);

// A service that serves, its port, and a connection to it.
const ports = await sprite.watchPorts();
assert.equal((await ports.next()).type, 'port_list');
const program = "import socket; s = socket.create_server(('127.0.0.1', 9000)); print('up', flush=True)\n"
  + 'while True:\n    c, _ = s.accept(); c.sendall(c.recv(100).upper()); c.close()';
const events = [];
const created = await sprite.createService('web', { cmd: 'python3', args: ['-c', program], httpPort: 9000 }, '1s');
for await (const event of created) events.push(event);
assert.deepEqual([events.at(0).type, events.at(-1).type], ['started', 'complete']);
assert.equal((await sprite.getService('web')).state.status, 'running');
for (let port = await ports.next(); !(port.type === 'port_opened' && port.port === 9000); ) port = await ports.next();
ports.close();
const session = await sprite.proxyPort(0, 9000);
const answer = await new Promise((resolve, reject) => {
  const [host, port] = session.localAddr().split(':');
  const socket = connect(Number(port), host, () => socket.write('hello'));
  socket.on('data', data => resolve(data.toString())).on('error', reject);
});
assert.equal(answer, 'HELLO');
session.close();
for await (const event of await sprite.stopService('web')) assert.notEqual(event.type, 'error');
assert.equal((await sprite.getService('web')).state.status, 'stopped');

const rules = [{ domain: 'example.com', action: 'allow' }, { include: 'defaults' }];
await sprite.updateNetworkPolicy({ rules });
assert.deepEqual(await sprite.getNetworkPolicy(), { rules });
assert.equal((await sprite.getResourcesPolicy()).memory.autoscale, false);

await sprite.delete();
console.log('done');
process.exit(0);
