/**
 * Gives each style element that a library makes the nonce of this page: the page's policy refuses those without.
 *
 * Imported before all else. The policy allows scripts of this server alone, so only code that is part of the
 * console ever makes one here.
 */

const meta = document.querySelector<HTMLMetaElement>('meta[property="csp-nonce"]');
const nonce = meta?.nonce ?? "";
const create = document.createElement.bind(document);

export function withNonce(name: string, options?: ElementCreationOptions): HTMLElement {
  const made = create(name, options);
  if (nonce && name.toLowerCase() === "style") made.setAttribute("nonce", nonce);
  return made;
}

document.createElement = withNonce as typeof document.createElement;
