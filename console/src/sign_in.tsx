/** Who is signed in. The cookie is the server's and unseen here; a key that is typed is sent once and kept nowhere. */

import { BayError, Unauthorized } from "bay-sandbox";
import { createContext, type ReactNode, useCallback, useContext, useEffect, useMemo, useState } from "react";
import { bay, PROOF, said } from "./bay";

const PATH = "/v1/console/sign_in";

/** The one who is signed in, as the server says it. */
export interface Me {
  owner: string;
  scope: "read" | "write" | "admin";
  key_id: string;
  expires_at: string | null;
  version: string;
}

export type SignInState =
  | { kind: "asking" }
  | { kind: "in"; me: Me }
  | { kind: "out"; reason: "none" | "over" | "left"; error: string }
  | { kind: "unreachable"; error: string };

interface SignIn {
  state: SignInState;
  enter(key: string): Promise<void>;
  leave(): Promise<void>;
  /** A call was refused: the key was revoked, or its time is over. */
  lost(): void;
  retry(): void;
}

const SignInContext = createContext<SignIn | null>(null);

/** The one-time code of `bay open`, which is taken out of the address before anything else sees it. */
export function takeCode(): string | null {
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (code !== null) history.replaceState(null, "", location.pathname + location.search);
  return code;
}

const given = takeCode();

async function ask(): Promise<SignInState> {
  try {
    const call = { method: "GET" as const, path: PATH, safe: true };
    return { kind: "in", me: await bay.request<Me>(call) };
  } catch (error) {
    if (error instanceof Unauthorized) return { kind: "out", reason: "none", error: "" };
    return { kind: "unreachable", error: said(error) };
  }
}

async function enter(body: { key: string } | { code: string }): Promise<Me> {
  return bay.request<Me>({ method: "POST", path: PATH, body });
}

export function SignInProvider({ children }: { children: ReactNode }): ReactNode {
  const [state, setState] = useState<SignInState>({ kind: "asking" });

  const begin = useCallback(async (code: string | null) => {
    setState({ kind: "asking" });
    if (code === null) return setState(await ask());
    try {
      setState({ kind: "in", me: await enter({ code }) });
    } catch (error) {
      if (error instanceof BayError && error.status === 0)
        setState({ kind: "unreachable", error: said(error) });
      else setState({ kind: "out", reason: "none", error: said(error) });
    }
  }, []);

  useEffect(() => {
    void begin(given);
  }, [begin]);

  const signIn = useMemo<SignIn>(
    () => ({
      state,
      enter: async (key) => setState({ kind: "in", me: await enter({ key }) }),
      leave: async () => {
        await fetch(PATH, { method: "DELETE", headers: PROOF });
        setState({ kind: "out", reason: "left", error: "" });
      },
      lost: () => setState((now) => (now.kind === "in" ? { kind: "out", reason: "over", error: "" } : now)),
      retry: () => void begin(null),
    }),
    [state, begin],
  );
  return <SignInContext value={signIn}>{children}</SignInContext>;
}

export function useSignIn(): SignIn {
  const found = useContext(SignInContext);
  if (found === null) throw new Error("useSignIn is for what is inside of SignInProvider");
  return found;
}

/** Who is signed in; for pages that are shown to nobody else. */
export function useMe(): Me {
  const { state } = useSignIn();
  if (state.kind !== "in") throw new Error("useMe is for pages behind the sign-in");
  return state.me;
}

export function mayWrite(me: Me): boolean {
  return me.scope !== "read";
}
