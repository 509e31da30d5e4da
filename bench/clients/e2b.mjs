// The client `e2b` of JavaScript.
import { Sandbox } from 'e2b'

const { serve } = await import(process.env.BENCH_ACTS)
await serve({
  create: () => Sandbox.create({ timeoutMs: 3_600_000 }),
  run: (box) => box.commands.run('true'),
  write: (box, data) => box.files.write('large', data.buffer),
  read: (box) => box.files.read('large', { format: 'bytes' }),
  destroy: (box) => box.kill(),
})
