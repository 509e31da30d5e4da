import { Search } from "lucide-react";
import { type ComponentProps, type ReactNode, useId } from "react";
import { cx } from "./class_names";

const BOX =
  "w-full min-h-9 rounded-lg border border-strong-line bg-panel px-3 py-1.5 text-sm text-ink placeholder:text-muted disabled:opacity-60";

export function Input({ className, ...rest }: ComponentProps<"input">): ReactNode {
  return <input autoComplete="off" spellCheck={false} {...rest} className={cx(BOX, className)} />;
}

/** A field that narrows a list while one types. */
export function SearchInput({
  label,
  value,
  onType,
  className,
}: {
  label: string;
  value: string;
  onType(text: string): void;
  className?: string;
}): ReactNode {
  return (
    <div className={cx("relative", className)}>
      <Search aria-hidden className="pointer-events-none absolute top-2.5 left-3 size-4 text-muted" />
      <Input
        type="search"
        aria-label={label}
        placeholder={label}
        value={value}
        onChange={(event) => onType(event.target.value)}
        className="pl-9"
      />
    </div>
  );
}

export function TextArea({ className, ...rest }: ComponentProps<"textarea">): ReactNode {
  return <textarea spellCheck={false} {...rest} className={cx(BOX, "font-mono", className)} />;
}

/** The browser's own list of choices: it works on every phone, and by keyboard. */
export function Select({ className, ...rest }: ComponentProps<"select">): ReactNode {
  return <select {...rest} className={cx(BOX, "pr-8", className)} />;
}

/** A field with its name above it, and a hint or an error below. */
export function Field({
  label,
  hint,
  error,
  children,
}: {
  label: string;
  hint?: ReactNode;
  error?: ReactNode;
  children: (given: { id: string; "aria-describedby": string; "aria-invalid": boolean }) => ReactNode;
}): ReactNode {
  const id = useId();
  const about = `${id}-about`;
  return (
    <div className="flex flex-col gap-1">
      <label htmlFor={id} className="text-sm font-medium">
        {label}
      </label>
      {children({ id, "aria-describedby": about, "aria-invalid": Boolean(error) })}
      <div id={about} className={cx("text-xs", error ? "text-bad" : "text-muted")}>
        {error || hint}
      </div>
    </div>
  );
}

export function Check({ label, className, ...rest }: { label: string } & ComponentProps<"input">): ReactNode {
  return (
    <label className={cx("inline-flex items-center gap-2 text-sm", className)}>
      <input type="checkbox" {...rest} className="size-4 accent-accent" />
      {label}
    </label>
  );
}
