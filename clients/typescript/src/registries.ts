/** Logins to the registries of images. */

import { get, nounPath, type CallOptions } from "./call.js";
import { Noun } from "./http.js";
import type { RegistryLogin } from "./types.js";

/** The logins of the key's owner. No call gives a password back. */
export class Registries extends Noun {
  /**
   * Keep a user name and a password or token for the registry `host`, in place of what it had. Bay gives them to that
   * registry alone, and to the host that it names for its tokens.
   */
  async login(
    host: string,
    username: string,
    password: string,
    { signal }: CallOptions = {},
  ): Promise<RegistryLogin> {
    const path = nounPath("registries", host);
    return this.http.json<RegistryLogin>({ method: "PUT", path, body: { username, password }, safe: true, signal });
  }

  /** All of them by host. */
  async list({ signal }: CallOptions = {}): Promise<RegistryLogin[]> {
    return this.http.all<RegistryLogin>({ ...get("/v1/registries"), signal });
  }

  /** Forget a login. Throws NotFound. */
  async logout(host: string, { signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "DELETE", path: nounPath("registries", host), signal });
  }
}
