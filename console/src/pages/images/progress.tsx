import type { ContainerImage } from "bay-sandbox";
import type { ReactNode } from "react";
import { bytes } from "@/lib/format";
import { useWords } from "@/lib/words";
import { cx } from "@/ui/class_names";
import { partOf, shortRef } from "./query";
import { imageWords } from "./words";

/** How far a pull has come: a bar, and the same in words. */
export function Progress({ image }: { image: ContainerImage }): ReactNode {
  const say = useWords(imageWords);
  const { progress } = image;
  const part = partOf(image);
  const step = say(progress?.step ?? "waiting");
  const told = progress?.bytes_total
    ? say("bytesOf", { done: bytes(progress.bytes_done ?? 0), all: bytes(progress.bytes_total) })
    : progress?.layers_total
      ? say("layersOf", { done: progress.layers_done ?? 0, all: progress.layers_total })
      : "";
  return (
    <span className="mt-1.5 block max-w-md">
      <span
        role="progressbar"
        aria-label={say("progress", { ref: shortRef(image.ref) })}
        aria-valuemin={0}
        aria-valuemax={100}
        {...(part === null ? {} : { "aria-valuenow": Math.round(part * 100) })}
        aria-valuetext={`${step} ${told}`}
        className="block h-1.5 overflow-hidden rounded-full bg-raised"
      >
        <span
          className={cx(
            "block h-full rounded-full bg-accent transition-[width]",
            part === null && "animate-pulse opacity-40",
          )}
          style={{ width: `${(part ?? 1) * 100}%` }}
        />
      </span>
      <span className="mt-1 block text-xs text-muted">{[step, told].filter(Boolean).join(" · ")}</span>
    </span>
  );
}
