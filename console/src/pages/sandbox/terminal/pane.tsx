/** One shell on the page. */

import type { Terminal } from "@xterm/xterm";
import { type Exec, type Sandbox, Unauthorized } from "bay-sandbox";
import { LoaderCircle, Plus, RotateCw, WifiOff } from "lucide-react";
import { type ReactNode, useEffect, useRef, useState } from "react";
import { said } from "@/bay";
import { onWake } from "@/lib/wake";
import { useWords } from "@/lib/words";
import { useSignIn } from "@/sign_in";
import { Button } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { shared } from "@/words";
import { doorTo } from "./door";
import { Keys } from "./keys";
import { plainLine } from "./plain";
import { type Link, Session } from "./session";
import { withCtrl } from "./shells";
import { terminalWords } from "./words";
import { copySelection, type Looks, looksOf, makeTerminal, ownKeys, showIn } from "./xterm";

/** For so long "connected again" is shown. */
const NOTE_MS = 4_000;

export interface PaneProps {
  box: Sandbox;
  exec: Exec;
  /** Whether this is the tab that is looked at. */
  shown: boolean;
  looks: Looks;
  label: string;
  onTitle(title: string): void;
  onLink(link: Link): void;
  onSize(size: { rows: number; cols: number }): void;
  /** The keyboard leaves the terminal. */
  onLeave(): void;
  openAnother(): void;
  close(): void;
  /** How to copy what is selected here, while it is shown. */
  copier: { current: (() => void) | null };
}

export function Pane(props: PaneProps): ReactNode {
  const { box, exec, shown, looks, copier } = props;
  const place = useRef<HTMLDivElement>(null);
  const [terminal, setTerminal] = useState<Terminal | null>(null);
  const [link, setLink] = useState<Link>({ kind: "connecting" });
  const [attempt, setAttempt] = useState(0);
  const [address, setAddress] = useState<string | null>(null);
  const [ctrl, setCtrl] = useState(false);
  const held = useRef(false);
  const latest = useRef(props);
  latest.current = props;
  const { lost } = useSignIn();

  // biome-ignore lint/correctness/useExhaustiveDependencies: another attempt begins anew
  useEffect(() => {
    if (place.current === null) return;
    const made = makeTerminal(latest.current.looks, false, setAddress);
    const hide = showIn(made, place.current);
    const tell = (now: Link): void => {
      setLink(now);
      latest.current.onLink(now);
      if (now.kind === "ended" || now.kind === "gone") {
        made.options.disableStdin = true;
        made.write("\x1b[?25l"); // a cursor would ask for keys
      }
      if (now.kind === "failed" && now.error instanceof Unauthorized) lost();
    };
    const session = new Session(doorTo(box.id, exec.id), screenOf(made), tell);
    ownKeys(made, () => latest.current.onLeave());
    made.onData((data) => {
      session.type(held.current ? withCtrl(data) : data);
      held.current = false;
      setCtrl(false);
    });
    made.onBinary((data) => session.type(Uint8Array.from(data, (letter) => letter.charCodeAt(0))));
    made.onResize((size) => {
      session.resize();
      latest.current.onSize(size);
    });
    made.onTitleChange((title) => latest.current.onTitle(plainLine(title)));
    latest.current.onSize({ rows: made.rows, cols: made.cols });
    setTerminal(made);
    void session.run();
    const deaf = onWake(() => session.renew());
    return () => {
      deaf();
      session.stop();
      hide();
      made.dispose();
      setTerminal(null);
    };
  }, [box.id, exec.id, attempt, lost]);

  useEffect(() => {
    if (terminal !== null) Object.assign(terminal.options, looksOf(looks));
  }, [terminal, looks]);

  useEffect(() => {
    if (!shown || terminal === null) return;
    terminal.focus();
    copier.current = () => void copySelection(terminal);
  }, [shown, terminal, copier]);

  const isOver = link.kind === "ended" || link.kind === "gone";
  const hold = (on: boolean): void => {
    held.current = on;
    setCtrl(on);
  };
  return (
    <section
      aria-label={props.label}
      hidden={!shown}
      className={cx("min-h-0 flex-1 flex-col", shown && "flex")}
    >
      <State {...props} link={link} again={() => setAttempt((number) => number + 1)} />
      <div className="relative min-h-40 flex-1 bg-[#ffffff] dark:bg-[#0a1319]">
        <div ref={place} className="absolute inset-0 overflow-hidden py-2 pl-3" />
        {address ? (
          <p className="pointer-events-none absolute bottom-1 left-1 z-10 max-w-[calc(100%-0.5rem)] truncate rounded-md border bg-panel px-2 py-0.5 text-xs">
            {address}
          </p>
        ) : null}
      </div>
      {isOver ? null : (
        <Keys
          ctrl={ctrl}
          setCtrl={hold}
          type={(data) => terminal?.input(data)}
          arrow={(letter) => {
            terminal?.input(`\x1b${terminal.modes.applicationCursorKeysMode ? "O" : "["}${letter}`);
          }}
        />
      )}
    </section>
  );
}

function screenOf(terminal: Terminal): ConstructorParameters<typeof Session>[1] {
  return {
    get rows() {
      return terminal.rows;
    },
    get cols() {
      return terminal.cols;
    },
    write: (data, done) => terminal.write(data, done),
    reset: () => terminal.reset(),
  };
}

const LINE = "flex min-h-10 flex-wrap items-center gap-x-3 gap-y-1.5 border-b px-3 py-1.5 text-sm";

/** What there is to say about the connection; nothing while all is well. */
function State(props: PaneProps & { link: Link; again(): void }): ReactNode {
  const { link, box } = props;
  const say = useWords(terminalWords);
  const sayShared = useWords(shared);
  const [noted, setNoted] = useState<Link | null>(null);
  useEffect(() => {
    const timer = setTimeout(() => setNoted(link), NOTE_MS);
    return () => clearTimeout(timer);
  }, [link]);
  const line = (tone: string, icon: ReactNode, text: string, acts?: ReactNode): ReactNode => (
    <div className={cx(LINE, tone)}>
      {icon}
      <span className="min-w-0 flex-1 break-words">{text}</span>
      {acts}
    </div>
  );
  const spin = <LoaderCircle aria-hidden className="size-4 shrink-0 animate-spin" />;
  const over = (text: string): ReactNode =>
    line(
      "bg-raised",
      null,
      text,
      <span className="flex gap-2">
        <Button icon={<Plus aria-hidden />} kind="primary" onClick={props.openAnother}>
          {say("openAnother")}
        </Button>
        <Button onClick={props.close}>{say("closeTab")}</Button>
      </span>,
    );
  const shown = (): ReactNode => {
    switch (link.kind) {
      case "connecting":
        return line("text-muted", spin, say("connecting"));
      case "broken":
        return line(
          "bg-warn-soft text-warn",
          <WifiOff aria-hidden className="size-4 shrink-0" />,
          say("broken"),
        );
      case "failed":
        return line(
          "bg-bad-soft text-bad",
          null,
          said(link.error),
          <Button icon={<RotateCw aria-hidden />} onClick={props.again}>
            {sayShared("again")}
          </Button>,
        );
      case "ended":
        return over(endOf(link.exec, say));
      case "gone":
        return over(say("gone"));
      case "live":
        if (box.compute === "warm") return line("bg-accent-soft text-accent", null, say("asleep"));
        if (noted === link) return null;
        if (link.skipped) return line("bg-warn-soft text-warn", null, say("skipped"));
        return link.again ? line("bg-good-soft text-good", null, say("again")) : null;
    }
  };
  return <div role="status">{shown()}</div>;
}

function endOf(exec: Exec, say: ReturnType<typeof useWords<typeof terminalWords.en>>): string {
  if (exec.state === "lost") return say("lost");
  if (exec.exit_code !== null) return say("exited", { code: exec.exit_code });
  return say("killed", { signal: exec.signal ?? "?" });
}
