// Which paths the TypeScript SDK leaves out of a context: `[[TEXT, PATHS], …]` comes in, `[[BOOLEANS] or null, …]` goes out.

import { text } from "node:stream/consumers";
import { Ignored } from "../../../clients/typescript/dist/ignored.js";

function covered([patterns, paths]) {
  try {
    const ignored = new Ignored(patterns);
    return paths.map((path) => ignored.covers(path));
  } catch {
    return null;
  }
}

console.log(JSON.stringify(JSON.parse(await text(process.stdin)).map(covered)));
