import type { ComponentProps, ReactNode } from "react";
import { cx } from "./class_names";

/** A box of the page with a heading and, at its right, acts. */
export function Panel({
  title,
  acts,
  className,
  children,
  ...rest
}: { title?: ReactNode; acts?: ReactNode } & Omit<ComponentProps<"section">, "title">): ReactNode {
  return (
    <section {...rest} className={cx("overflow-hidden rounded-xl border bg-panel", className)}>
      {title || acts ? (
        <header className="flex min-h-12 flex-wrap items-center gap-2 border-b px-4 py-2">
          <h2 className="min-w-0 flex-1 text-sm font-semibold">{title}</h2>
          {acts}
        </header>
      ) : null}
      {children}
    </section>
  );
}

/** Names and values, below one another on a phone. Many of them stand in four columns where there is room. */
export function Facts({ many, children }: { many?: boolean; children: ReactNode }): ReactNode {
  return (
    <dl className={cx("grid gap-x-6 gap-y-3 px-4 py-4 sm:grid-cols-2", many && "xl:grid-cols-4")}>
      {children}
    </dl>
  );
}

export function Fact({ name, children }: { name: string; children: ReactNode }): ReactNode {
  return (
    <div className="min-w-0">
      <dt className="text-xs text-muted">{name}</dt>
      <dd className="mt-0.5 text-sm break-words">{children}</dd>
    </div>
  );
}
