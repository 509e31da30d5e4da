// A command by the JavaScript SDK of E2B whose Bay is killed: the client hears it, and finds it again later.
import assert from 'node:assert/strict'
import { createInterface } from 'node:readline'
import { CommandExitError, Sandbox } from 'e2b'

const sandbox = await Sandbox.create({ timeoutMs: 300_000 })
const command = await sandbox.commands.run('echo running; read line; echo $line; exit 3', {
  background: true, stdin: true, timeoutMs: 0, onStdout: (text) => process.stdout.write(text),
})
const cut = await command.wait().then(() => assert.fail('the command has ended'), (error) => error)
assert.ok(!(cut instanceof CommandExitError), cut)
console.log(`cut: ${cut}`.split('\n')[0])
for await (const line of createInterface({ input: process.stdin })) {
  assert.equal(line, 'back')
  break
}
const again = await sandbox.commands.connect(command.pid, { timeoutMs: 0 })
await sandbox.commands.sendStdin(command.pid, 'told\n')
const end = await again.wait().then(() => assert.fail('the command has not failed'), (error) => error)
assert.ok(end instanceof CommandExitError, end)
assert.equal(end.exitCode, 3)
assert.ok(end.stdout.endsWith('told\n'), end.stdout)
console.log('done')
process.exit(0)
