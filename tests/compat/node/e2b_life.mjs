// The life of sandboxes by the JavaScript SDK of E2B.
import assert from 'node:assert/strict'
import { Sandbox } from 'e2b'

process.env.E2B_API_KEY ??= process.env.BAY_API_KEY
process.env.E2B_API_URL ??= process.env.BAY_URL + '/e2b'
process.env.E2B_SANDBOX_URL ??= process.env.BAY_URL

const metadata = { 'user name': 'a b/c=&%' }
const sandbox = await Sandbox.create({ timeoutMs: 300_000, metadata })
assert.equal(await sandbox.isRunning(), true)
const info = await sandbox.getInfo()
assert.deepEqual(info.metadata, metadata)
assert.equal(info.state, 'running')

const pages = Sandbox.list({ query: { metadata } })
assert.deepEqual((await pages.nextItems()).map((item) => item.sandboxId), [sandbox.sandboxId])

const now = (await sandbox.getMetrics()).at(-1)
assert.equal(now.memTotal, info.memoryMB * 2 ** 20)
assert.ok(now.memUsed > 0 && now.cpuUsedPct >= 0, JSON.stringify(now))

await sandbox.setTimeout(60_000)
await sandbox.pause()
assert.equal(await sandbox.isRunning(), false)
const again = await Sandbox.connect(sandbox.sandboxId)
assert.equal(await again.isRunning(), true)

await assert.rejects(Sandbox.create('no/such-template'), /404/)
assert.equal(await again.kill(), true)
assert.equal(await Sandbox.kill(sandbox.sandboxId), false)
console.log('done')
