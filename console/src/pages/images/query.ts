import { queryOptions } from "@tanstack/react-query";
import type { ContainerImage } from "bay-sandbox";
import { bay } from "@/bay";
import { keys } from "@/live";

/** All images that the caller may use; the events `image.*` have it read again. */
export const imagesQuery = queryOptions({
  queryKey: keys.nouns("images"),
  queryFn: ({ signal }): Promise<ContainerImage[]> =>
    Array.fromAsync(bay.images.list({ limit: 200, signal })),
});

/** The reference as people write it: without what a registry's client adds by itself. */
export function shortRef(ref: string): string {
  return ref.replace(/^docker\.io\/(library\/)?/, "");
}

/** How far a pull has come, from 0 to 1; null while nothing is known of it. */
export function partOf({ progress }: Pick<ContainerImage, "progress">): number | null {
  if (!progress) return null;
  if (progress.bytes_total) return Math.min(1, (progress.bytes_done ?? 0) / progress.bytes_total);
  return progress.layers_total ? Math.min(1, (progress.layers_done ?? 0) / progress.layers_total) : null;
}
