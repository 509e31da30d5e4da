/** What a page shows while it has nothing to show: each of them says what to do next. */

import { CircleAlert, LoaderCircle, RotateCw } from "lucide-react";
import type { ReactNode } from "react";
import { said } from "@/bay";
import { useWords } from "@/lib/words";
import { shared } from "@/words";
import { Button } from "./button";

export function Loading({ label }: { label?: string }): ReactNode {
  const say = useWords(shared);
  return (
    <div role="status" className="flex items-center justify-center gap-2 p-10 text-sm text-muted">
      <LoaderCircle aria-hidden className="size-4 animate-spin" />
      {label ?? say("loading")}
    </div>
  );
}

/** Nothing is there yet, and how there will be something. */
export function Empty({
  icon,
  title,
  children,
}: {
  icon?: ReactNode;
  title: string;
  children?: ReactNode;
}): ReactNode {
  return (
    <div className="flex flex-col items-center justify-center gap-3 px-6 py-14 text-center">
      {icon ? (
        <div className="rounded-2xl bg-accent-soft p-3 text-accent [&_svg]:size-7" aria-hidden>
          {icon}
        </div>
      ) : null}
      <h2 className="text-base font-semibold">{title}</h2>
      <div className="flex max-w-md flex-col items-center gap-3 text-sm text-muted">{children}</div>
    </div>
  );
}

/** An error in Bay's own words, and a way to try again. */
export function Failed({ error, retry }: { error: unknown; retry?: () => void }): ReactNode {
  const say = useWords(shared);
  return (
    <div
      role="alert"
      className="m-4 flex flex-wrap items-center gap-3 rounded-xl border border-bad/40 bg-bad-soft px-4 py-3 text-sm text-bad"
    >
      <CircleAlert aria-hidden className="size-5 shrink-0" />
      <span className="min-w-0 flex-1 break-words">{said(error)}</span>
      {retry ? (
        <Button icon={<RotateCw aria-hidden />} onClick={retry}>
          {say("again")}
        </Button>
      ) : null}
    </div>
  );
}

/** What Bay was asked for: an error on top, a wait, `none` in place of an empty list, or what is made of the answer. */
export function Answered<Data>({
  query,
  none,
  children,
}: {
  query: { data: Data | undefined; error: unknown; refetch(): unknown };
  none?: ReactNode;
  children(data: Data): ReactNode;
}): ReactNode {
  const { data, error } = query;
  const isEmpty = none !== undefined && Array.isArray(data) && data.length === 0;
  return (
    <>
      {error ? <Failed error={error} retry={() => void query.refetch()} /> : null}
      {data !== undefined ? isEmpty ? none : children(data) : error ? null : <Loading />}
    </>
  );
}
