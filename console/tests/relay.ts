/** A way from a browser to Bay that can fall silent, as the network of a computer that sleeps: nothing says so. */

import type { AddressInfo } from "node:net";
import { connect, createServer, type Socket } from "node:net";
import { URL_OF_BAY } from "./world";

export interface Relay {
  url: string;
  /**
   * From now on nothing comes on the connections that there are, and none is closed: each is reset by what is sent
   * on it, as a host does that knows nothing of it.
   */
  fallSilent(): void;
  close(): void;
}

export async function relay(): Promise<Relay> {
  const { hostname, port } = new URL(URL_OF_BAY);
  const open = new Set<Socket>();
  const clients = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(Number(port), hostname);
    near.pipe(far).pipe(near);
    clients.add(near);
    near.on("close", () => clients.delete(near));
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      open.add(one);
      one.on("error", () => other.destroy());
      one.on("close", () => open.delete(one));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    fallSilent: () => {
      for (const one of open) one.unpipe().pause();
      for (const one of clients) one.on("data", () => one.resetAndDestroy()).resume();
    },
    close: () => {
      for (const one of open) one.destroy();
      server.close();
    },
  };
}
