import { queryOptions } from "@tanstack/react-query";
import type { Template } from "bay-sandbox";
import { bay } from "@/bay";
import { keys } from "@/live";

/** All templates that the caller may use; the events `template.*` have it read again. */
export const templatesQuery = queryOptions({
  queryKey: keys.nouns("templates"),
  queryFn: ({ signal }): Promise<Template[]> => Array.fromAsync(bay.templates.list({ limit: 200, signal })),
});

/** The name and the tag, as a create takes them. */
export function nameOf({ name, tag, id }: Pick<Template, "name" | "tag" | "id">): string {
  return tag === null ? id : `${name}:${tag}`;
}
