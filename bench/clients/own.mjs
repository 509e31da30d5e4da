// Bay's own SDK of TypeScript.
const { Client } = await import(process.env.BENCH_SDK)
const { serve } = await import(process.env.BENCH_ACTS)

const client = new Client()
await serve({
  create: () => client.sandboxes.create({ profile: 'python-default' }),
  run: (box) => box.run('true', { check: true }),
  write: (box, data) => box.files.write('large', data),
  read: (box) => box.files.read('large'),
  destroy: (box) => box.delete(),
})
