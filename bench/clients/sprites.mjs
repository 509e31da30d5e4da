// The client `@fly/sprites` of JavaScript.
import { SpritesClient } from '@fly/sprites'

const { serve } = await import(process.env.BENCH_ACTS)
const client = new SpritesClient(process.env.SPRITES_TOKEN, { baseURL: process.env.SPRITES_URL })
let number = 0
await serve({
  create: () => client.createSprite(`bench-${process.pid}-${number++}`),
  run: (sprite) => sprite.execFile('true'),
  write: (sprite, data) => sprite.filesystem('/home/sprite').writeFile('large', data),
  read: (sprite) => sprite.filesystem('/home/sprite').readFile('large', null),
  destroy: (sprite) => sprite.delete(),
})
