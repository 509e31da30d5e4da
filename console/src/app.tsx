/** The console: who is signed in, then the pages. */

import { QueryCache, QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { BayError, Unauthorized } from "bay-sandbox";
import { Tooltip } from "radix-ui";
import { type ReactNode, useMemo } from "react";
import { BrowserRouter, Navigate, Route, Routes } from "react-router";
import { LiveProvider } from "./live";
import { NoPage } from "./pages/no_page";
import { PAGES } from "./pages/pages";
import { SandboxPage } from "./pages/sandbox/page";
import { SignInPage } from "./pages/sign_in/page";
import { Shell } from "./shell";
import { SignInProvider, useMe, useSignIn } from "./sign_in";
import { Failed, Loading } from "./ui/states";
import { Toasts } from "./ui/toasts";

const BASE = "/console";

export function App(): ReactNode {
  return (
    <SignInProvider>
      <Tooltip.Provider delayDuration={300}>
        <Door />
        <Toasts />
      </Tooltip.Provider>
    </SignInProvider>
  );
}

function Door(): ReactNode {
  const { state, retry } = useSignIn();
  switch (state.kind) {
    case "asking":
      return <Loading />;
    case "unreachable":
      return <Failed error={state.error} retry={retry} />;
    case "out":
      return <SignInPage reason={state.reason} error={state.error} />;
    case "in":
      // Another caller begins with nothing of the one before.
      return <Inside key={state.me.key_id} />;
  }
}

function mayRepeat(failures: number, error: unknown): boolean {
  return failures < 2 && error instanceof BayError && error.retryable;
}

function Inside(): ReactNode {
  const { lost } = useSignIn();
  const cache = useMemo(() => {
    const onError = (error: unknown): void => {
      if (error instanceof Unauthorized) lost();
    };
    return new QueryClient({
      queryCache: new QueryCache({ onError }),
      // Events say when something has changed: nothing is old by its age.
      defaultOptions: {
        queries: { staleTime: Number.POSITIVE_INFINITY, refetchOnWindowFocus: false, retry: mayRepeat },
      },
    });
  }, [lost]);
  return (
    <QueryClientProvider client={cache}>
      <LiveProvider>
        {/* The bare address is the console too; its pages have theirs below. */}
        <BrowserRouter>
          <Pages />
        </BrowserRouter>
      </LiveProvider>
    </QueryClientProvider>
  );
}

function Pages(): ReactNode {
  const me = useMe();
  const first = <Navigate replace to={`${BASE}/sandboxes`} />;
  return (
    <Routes>
      <Route element={<Shell />}>
        <Route path={`${BASE}/sandboxes/:ref/:tab?`} element={<SandboxPage />} />
        {PAGES.filter((page) => !page.forAdmins || me.scope === "admin").map((page) => (
          <Route key={page.path} path={`${BASE}/${page.path}`} element={<page.Page />} />
        ))}
        <Route path="/" element={first} />
        <Route path={BASE} element={first} />
        <Route path="*" element={<NoPage />} />
      </Route>
    </Routes>
  );
}
