import type { ReactNode } from "react";

/** A page of one list or one view: its name and acts on top, the rest below. */
export function PageFrame({
  title,
  about,
  acts,
  children,
}: {
  title: string;
  about?: ReactNode;
  acts?: ReactNode;
  children: ReactNode;
}): ReactNode {
  return (
    <>
      <header className="grid grid-cols-[1fr_auto] items-center gap-x-4 border-b bg-panel px-4 py-3">
        <h1 className="min-h-9 content-center text-lg font-semibold">{title}</h1>
        <div className="flex items-center gap-2">{acts}</div>
        {about ? <p className="col-span-2 max-w-3xl text-sm text-muted">{about}</p> : null}
      </header>
      {children}
    </>
  );
}
