// A sandbox by its hosts behind TLS, as the JavaScript SDKs of E2B reach it when they only know E2B_DOMAIN.
import assert from 'node:assert/strict'
import dns from 'node:dns'
import { Sandbox } from '@e2b/code-interpreter'

// Node asks the system alone, which knows nothing of the domain of a test.
const { lookup } = dns
const ours = process.env.E2B_DOMAIN.replace(/:.*/, '')
dns.lookup = (name, options, callback) =>
  lookup(name.endsWith(`.${ours}`) ? '127.0.0.1' : name, options, callback)

const sandbox = await Sandbox.create({ timeoutMs: 300_000 })
assert.equal(await sandbox.isRunning(), true)
assert.equal((await sandbox.commands.run('echo $((6*7))')).stdout, '42\n')
await sandbox.files.write('page.txt', 'by its host')
assert.equal(await sandbox.files.read('page.txt'), 'by its host')
assert.equal((await sandbox.runCode('6 * 7')).text, '42')

await sandbox.commands.run('python3 -m http.server 8000 --directory /home/user', { background: true })
const answer = await fetch(`https://${sandbox.getHost(8000)}/page.txt`)
assert.equal(await answer.text(), 'by its host')
assert.equal(await sandbox.kill(), true)
assert.equal(await sandbox.isRunning(), false)
console.log('done')
