import { type ReactNode, useEffect, useState } from "react";
import { useWords } from "@/lib/words";
import { cx } from "@/ui/class_names";
import { filesWords } from "../words";

/** A picture, as an image alone: what an SVG would run or load, no image does. */
export default function Picture({ blob, name }: { blob: Blob; name: string }): ReactNode {
  const say = useWords(filesWords);
  const [address, setAddress] = useState<string | null>(null);
  const [isBroken, setBroken] = useState(false);
  const [isWhole, setWhole] = useState(false);
  const [sizes, setSizes] = useState("");

  useEffect(() => {
    const made = URL.createObjectURL(blob);
    setAddress(made);
    setBroken(false);
    return () => URL.revokeObjectURL(made);
  }, [blob]);
  if (isBroken) return <p className="p-8 text-center text-sm text-muted">{say("cannotPicture")}</p>;
  return (
    <div className="flex h-full flex-col">
      <button
        type="button"
        onClick={() => setWhole(!isWhole)}
        className={cx(
          "flex min-h-0 flex-1 bg-[repeating-conic-gradient(var(--color-raised)_0_25%,var(--color-panel)_0_50%)] bg-[length:20px_20px]",
          isWhole ? "cursor-zoom-out overflow-auto" : "cursor-zoom-in items-center justify-center p-4",
        )}
      >
        {address ? (
          <img
            src={address}
            alt={name}
            className={isWhole ? "m-auto max-w-none" : "max-h-full max-w-full object-contain"}
            onError={() => setBroken(true)}
            onLoad={({ currentTarget: { naturalWidth, naturalHeight } }) =>
              setSizes(naturalWidth ? `${naturalWidth} × ${naturalHeight}` : "")
            }
          />
        ) : null}
      </button>
      <p className="border-t px-4 py-1.5 text-center text-xs text-muted">{sizes || "\u00a0"}</p>
    </div>
  );
}
