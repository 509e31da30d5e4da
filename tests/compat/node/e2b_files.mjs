// Files and commands as a user of E2B handles them, with the client of JavaScript.
import assert from 'node:assert/strict'
import { CommandExitError, NotFoundError, Sandbox } from 'e2b'

const box = await Sandbox.create()
try {
  const written = await box.files.write('notes/a.txt', 'hello')
  assert.equal(written.path, '/home/user/notes/a.txt')
  assert.equal(await box.files.read('notes/a.txt'), 'hello')
  await box.files.write(Array.from({ length: 50 }, (_, n) => ({ path: `many/${n}.txt`, data: `${n}` })))
  assert.equal((await box.files.list('many')).length, 50)
  assert.equal((await box.files.getInfo('notes/a.txt')).owner, 'user')
  assert.equal(await box.files.makeDir('folder'), true)
  assert.equal(await box.files.makeDir('folder'), false)
  await box.files.rename('notes/a.txt', 'folder/b.txt')
  assert.equal(await box.files.exists('notes/a.txt'), false)
  await assert.rejects(box.files.read('nothing'), NotFoundError)

  const events = []
  let told
  const came = new Promise((resolve) => (told = resolve))
  const watch = await box.files.watchDir('folder', (event) => {
    if (events.push(event.type) === 3) told()
  })
  await box.files.write('folder/new.txt', 'x')
  await came
  assert.deepEqual(events, ['create', 'chmod', 'write'])
  await watch.stop()

  const done = await box.commands.run('echo $NAME; pwd', { envs: { NAME: 'js' } })
  assert.equal(done.stdout, 'js\n/home/user\n')
  await assert.rejects(box.commands.run('exit 3'), (e) => e instanceof CommandExitError && e.exitCode === 3)
  const sleeper = await box.commands.run('sleep 60', { background: true })
  assert.equal(await sleeper.kill(), true)
  const url = await box.downloadUrl('folder/b.txt', { useSignatureExpiration: 60 })
  const headers = { 'E2b-Sandbox-Id': box.sandboxId, 'E2b-Sandbox-Port': '49983' }
  assert.equal(await (await fetch(url, { headers })).text(), 'hello')
  assert.equal((await fetch(url.replace('b.txt', 'c.txt'), { headers })).status, 401)
} finally {
  await box.kill()
}
console.log('done')
