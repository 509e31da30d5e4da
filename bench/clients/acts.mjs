// What each program does, by the calls that its client gives; acts.py says the same in Python.
import { randomBytes } from 'node:crypto'
import { createInterface } from 'node:readline'

const SIZE = 100 << 20

export async function serve({ create, run, write, read, destroy }) {
  const data = Buffer.alloc(SIZE, randomBytes(1 << 20))
  let box
  const acts = {
    open: async () => {
      box = await create()
      await run(box)
    },
    life: async () => {
      const one = await create()
      try {
        await run(one)
      } finally {
        await destroy(one)
      }
    },
    exec: () => run(box),
    up: () => write(box, data),
    down: () => read(box),
    close: () => destroy(box),
  }
  for await (const act of createInterface({ input: process.stdin })) {
    const own = process.cpuUsage()
    const began = performance.now()
    const given = await acts[act]()
    const wall = performance.now() - began
    const { user, system } = process.cpuUsage(own)
    if (act === 'down' && !data.equals(given)) throw new Error('the file came back changed')
    console.log(JSON.stringify([wall, (user + system) / 1000]))
  }
  process.exit(0) // connections that a client keeps are no work
}
