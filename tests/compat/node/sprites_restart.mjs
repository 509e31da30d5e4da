// A command by `@fly/sprites` whose Bay is killed: the client hears no exit code, and finds the session later.
import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';
import { SpritesClient } from '@fly/sprites';

const client = new SpritesClient(process.env.BAY_API_KEY, { baseURL: process.env.BAY_URL });
const sprite = await client.createSprite('restart');
const command = sprite.createSession('sh', ['-c', 'echo running; read line; exit 3'], {});
command.on('error', (error) => console.error(error));
command.stdout.on('data', (data) => process.stdout.write(data.toString().replace('\r', '')));
const code = await command.wait().catch((error) => error);
assert.ok(code !== 0 && code !== 3, `${code}`);
console.log(`cut: ${code}`);
for await (const line of createInterface({ input: process.stdin })) {
  assert.equal(line, 'back');
  break;
}
const [session] = await sprite.listSessions();
const again = sprite.attachSession(session.id);
let printed = '';
again.stdout.on('data', (data) => { printed += data; });
await new Promise((resolve) => { again.on('spawn', resolve); });
again.stdin.write('told\r');
assert.notEqual(await again.wait(), 0);
assert.equal((await sprite.listSessions()).length, 0);
console.log('done');
process.exit(0);
