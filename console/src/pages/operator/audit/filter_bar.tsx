import { X } from "lucide-react";
import { type ReactNode, useEffect, useState } from "react";
import { useWords } from "@/lib/words";
import { Button } from "@/ui/button";
import { Input, Select } from "@/ui/fields";
import { METHODS, RANGES, type Range, STATUSES, TEXTS } from "./filters";
import { auditWords } from "./words";

const LABELS = {
  owner: "owner",
  key_id: "key",
  path: "path",
  resource_id: "resource",
  request_id: "request",
} as const;
/** What is typed is asked for once the typing rests. */
const REST_MS = 350;

/** The filters; the address of the page has them, so that a link keeps them. */
export function FilterBar({
  filters,
  change,
}: {
  filters: Record<string, string>;
  change(next: Record<string, string>, options?: { replace: boolean }): void;
}): ReactNode {
  const say = useWords(auditWords);
  const put = (name: string, value: string): void => {
    const { [name]: _, ...others } = filters;
    change(value ? { ...others, [name]: value } : others, { replace: true });
  };
  return (
    <form
      aria-label={say("filters")}
      onSubmit={(event) => event.preventDefault()}
      className="flex gap-2 overflow-x-auto border-b px-4 py-3 md:flex-wrap"
    >
      <Select
        aria-label={say("time")}
        value={filters["range"] ?? ""}
        onChange={(event) => put("range", event.target.value)}
        className="!w-auto shrink-0"
      >
        <option value="">{say("anyTime")}</option>
        {(Object.keys(RANGES) as Range[]).map((name) => (
          <option key={name} value={name}>
            {say(name)}
          </option>
        ))}
      </Select>
      <Select
        aria-label={say("method")}
        value={filters["method"] ?? ""}
        onChange={(event) => put("method", event.target.value)}
        className="!w-auto shrink-0"
      >
        <option value="">{say("anyMethod")}</option>
        {METHODS.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </Select>
      <Select
        aria-label={say("status")}
        value={filters["status"] ?? ""}
        onChange={(event) => put("status", event.target.value)}
        className="!w-auto shrink-0"
      >
        <option value="">{say("anyStatus")}</option>
        {(Object.keys(STATUSES) as (keyof typeof STATUSES)[]).map((name) => (
          <option key={name} value={STATUSES[name]}>
            {say(name)}
          </option>
        ))}
      </Select>
      {TEXTS.map((name) => (
        <TextFilter
          key={name}
          label={say(LABELS[name])}
          value={filters[name] ?? ""}
          put={(value) => put(name, value)}
        />
      ))}
      {Object.keys(filters).length ? (
        <Button kind="quiet" icon={<X aria-hidden />} onClick={() => change({})}>
          {say("clear")}
        </Button>
      ) : null}
    </form>
  );
}

function TextFilter({
  label,
  value,
  put,
}: {
  label: string;
  value: string;
  put(value: string): void;
}): ReactNode {
  const [typed, setTyped] = useState(value);
  useEffect(() => setTyped(value), [value]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: `put` is another function each time
  useEffect(() => {
    if (typed.trim() === value) return;
    const timer = setTimeout(() => put(typed.trim()), REST_MS);
    return () => clearTimeout(timer);
  }, [typed, value]);
  return (
    <Input
      type="search"
      aria-label={label}
      placeholder={label}
      value={typed}
      onChange={(event) => setTyped(event.target.value)}
      className="!w-40 shrink-0 xl:!w-32 xl:flex-1"
    />
  );
}
