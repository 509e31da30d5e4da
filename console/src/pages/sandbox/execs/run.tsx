/** The form that runs a command. */

import type { Exec, Sandbox } from "bay-sandbox";
import { type ReactNode, useState } from "react";
import { bay, said } from "@/bay";
import { useWords } from "@/lib/words";
import { Button } from "@/ui/button";
import { Dialog } from "@/ui/dialog";
import { Check, Field, Input, TextArea } from "@/ui/fields";
import { shared } from "@/words";
import { EnvLine, envOf } from "./commands";
import { execWords } from "./words";

export function RunDialog({
  box,
  open,
  onOpenChange,
  started,
}: {
  box: Sandbox;
  open: boolean;
  onOpenChange(open: boolean): void;
  started(exec: Exec): void;
}): ReactNode {
  const say = useWords(execWords);
  return (
    <Dialog open={open} onOpenChange={onOpenChange} title={say("run")}>
      <Form box={box} cancel={() => onOpenChange(false)} started={started} />
    </Dialog>
  );
}

function Form({
  box,
  cancel,
  started,
}: {
  box: Sandbox;
  cancel(): void;
  started(exec: Exec): void;
}): ReactNode {
  const say = useWords(execWords);
  const sayShared = useWords(shared);
  const [command, setCommand] = useState("");
  const [cwd, setCwd] = useState("");
  const [user, setUser] = useState("");
  const [timeout, setTimeout] = useState("");
  const [env, setEnv] = useState("");
  const [stdinOpen, setStdinOpen] = useState(false);
  const [tty, setTty] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const badLine = error instanceof EnvLine ? say("envBad", { line: error.line }) : null;
  const run = async (): Promise<void> => {
    setBusy(true);
    setError(null);
    try {
      const variables = envOf(env);
      const handle = await bay.sandboxes.get(box.id);
      const proc = await handle.execs.spawn(command, {
        ...(cwd ? { cwd } : {}),
        ...(user ? { user } : {}),
        ...(timeout ? { timeoutS: Number(timeout) } : {}),
        env: variables,
        stdinOpen,
        tty,
        waitForReader: false, // its output is kept for whoever looks, and nobody must
      });
      started(proc.info);
    } catch (failed) {
      setError(failed);
    } finally {
      setBusy(false);
    }
  };
  return (
    <form
      className="flex flex-col gap-3"
      onSubmit={(event) => {
        event.preventDefault();
        if (command.trim()) void run();
      }}
    >
      <Field label={say("command")} hint={say("commandHint")}>
        {(given) => (
          <TextArea
            {...given}
            autoFocus
            required
            rows={3}
            value={command}
            onChange={(event) => setCommand(event.target.value)}
          />
        )}
      </Field>
      <div className="grid gap-3 sm:grid-cols-3">
        <Field label={say("cwd")} hint={say("cwdHint")}>
          {(given) => (
            <Input
              {...given}
              value={cwd}
              placeholder="/workspace"
              onChange={(event) => setCwd(event.target.value)}
            />
          )}
        </Field>
        <Field label={say("user")}>
          {(given) => (
            <Input
              {...given}
              value={user}
              placeholder="ship"
              onChange={(event) => setUser(event.target.value)}
            />
          )}
        </Field>
        <Field label={say("timeout")} hint={say("timeoutHint")}>
          {(given) => (
            <Input
              {...given}
              type="number"
              min="0.1"
              step="any"
              value={timeout}
              onChange={(event) => setTimeout(event.target.value)}
            />
          )}
        </Field>
      </div>
      <Field label={say("env")} hint={say("envHint")} error={badLine}>
        {(given) => (
          <TextArea {...given} rows={2} value={env} onChange={(event) => setEnv(event.target.value)} />
        )}
      </Field>
      <div className="flex flex-wrap gap-x-5 gap-y-2">
        <Check
          label={say("stdinOpen")}
          checked={stdinOpen}
          onChange={(event) => setStdinOpen(event.target.checked)}
        />
        <Check label={say("tty")} checked={tty} onChange={(event) => setTty(event.target.checked)} />
      </div>
      {error !== null && badLine === null ? (
        <p role="alert" className="rounded-lg bg-bad-soft px-3 py-2 text-sm break-words text-bad">
          {said(error)}
        </p>
      ) : null}
      <div className="flex justify-end gap-2">
        <Button onClick={cancel}>{sayShared("cancel")}</Button>
        <Button kind="primary" type="submit" busy={busy} disabled={!command.trim()}>
          {say(box.compute === "running" || box.compute === "warm" ? "runIt" : "startAndRun")}
        </Button>
      </div>
    </form>
  );
}
