import { LoaderCircle } from "lucide-react";
import type { ComponentProps, ReactNode } from "react";
import { cx } from "./class_names";

export type Kind = "plain" | "primary" | "danger" | "quiet";

const KINDS: Record<Kind, string> = {
  plain: "bg-panel border-strong-line/60 text-ink hover:bg-raised",
  primary: "bg-accent border-accent text-accent-ink hover:opacity-90",
  danger: "bg-bad border-bad text-panel hover:opacity-90",
  quiet: "border-transparent text-muted hover:bg-raised hover:text-ink",
};

interface Looks {
  kind?: Kind;
  icon?: ReactNode;
  busy?: boolean;
}

/** A button with words. While it is busy it cannot be pressed again. */
export function Button({
  kind = "plain",
  icon,
  busy = false,
  className,
  children,
  disabled,
  ...rest
}: Looks & ComponentProps<"button">): ReactNode {
  return (
    <button
      type="button"
      {...rest}
      disabled={disabled || busy}
      aria-busy={busy || undefined}
      className={cx(
        "inline-flex min-h-9 items-center justify-center gap-2 rounded-lg border px-3 py-1.5 text-sm font-medium whitespace-nowrap transition-colors disabled:cursor-not-allowed disabled:opacity-55 [&_svg]:size-4 [&_svg]:shrink-0",
        KINDS[kind],
        className,
      )}
    >
      {busy ? <LoaderCircle aria-hidden className="animate-spin" /> : icon}
      {children}
    </button>
  );
}

/** A button with a picture alone; `label` is its name. */
export function IconButton({
  label,
  kind = "quiet",
  className,
  children,
  ...rest
}: { label: string; kind?: Kind } & ComponentProps<"button">): ReactNode {
  return (
    <button
      type="button"
      {...rest}
      aria-label={label}
      title={label}
      className={cx(
        "inline-flex size-9 shrink-0 items-center justify-center rounded-lg border transition-colors disabled:cursor-not-allowed disabled:opacity-50 [&_svg]:size-4.5",
        KINDS[kind],
        className,
      )}
    >
      {children}
    </button>
  );
}
