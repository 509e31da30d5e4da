/** The door. The key goes to the server once, for a cookie that scripts cannot read; the page keeps nothing of it. */

import { Eye } from "lucide-react";
import { type FormEvent, type ReactNode, useState } from "react";
import { said } from "@/bay";
import icon from "@/icon.svg";
import { useWords } from "@/lib/words";
import { useSignIn } from "@/sign_in";
import { Button, IconButton } from "@/ui/button";
import { Field, Input } from "@/ui/fields";
import { signInWords } from "./words";

export function SignInPage({
  reason,
  error,
}: {
  reason: "none" | "over" | "left";
  error: string;
}): ReactNode {
  const say = useWords(signInWords);
  const { enter } = useSignIn();
  const [key, setKey] = useState("");
  const [problem, setProblem] = useState(error);
  const [busy, setBusy] = useState(false);
  const [shown, setShown] = useState(false);

  const submit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    if (key.trim() === "") return setProblem(say("wrong"));
    setBusy(true);
    setProblem("");
    try {
      await enter(key.trim());
    } catch (failure) {
      setProblem(said(failure));
      setBusy(false);
    }
  };

  return (
    <main className="flex min-h-dvh items-center justify-center px-4 py-10">
      <div className="w-full max-w-sm">
        <div className="mb-6 flex items-center gap-3">
          <img src={icon} alt="" className="size-10" />
          <h1 className="text-xl font-semibold tracking-tight">{say("title")}</h1>
        </div>
        {reason === "none" ? null : (
          <p role="status" className="mb-4 rounded-lg bg-warn-soft px-3 py-2 text-sm text-warn">
            {say(reason)}
          </p>
        )}
        <form
          onSubmit={submit}
          className="flex flex-col gap-4 rounded-2xl border bg-panel p-5 shadow-sm"
          noValidate
        >
          <Field label={say("key")} hint={say("hint")} error={problem}>
            {(given) => (
              <div className="flex gap-1">
                <Input
                  {...given}
                  type={shown ? "text" : "password"}
                  autoComplete="current-password"
                  value={key}
                  onChange={(event) => setKey(event.target.value)}
                  autoFocus
                />
                <IconButton label={say("show")} aria-pressed={shown} onClick={() => setShown(!shown)}>
                  <Eye aria-hidden />
                </IconButton>
              </div>
            )}
          </Field>
          <Button kind="primary" type="submit" busy={busy}>
            {say("enter")}
          </Button>
        </form>
        <p className="mt-5 text-sm text-muted">{say("orOpen")}</p>
        <pre className="mt-1.5 rounded-lg bg-raised px-3 py-2 text-sm">bay open</pre>
        <p className="mt-5 text-sm">
          <a href="/docs/" className="text-accent underline">
            {say("docs")}
          </a>
        </p>
      </div>
    </main>
  );
}
