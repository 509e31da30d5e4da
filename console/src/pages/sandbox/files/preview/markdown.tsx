/**
 * Markdown as React elements. The parser gives tokens, and each token that is known becomes one element of ours: no
 * HTML of the file is ever made. Links lead to http and https alone, and no picture is loaded from another host.
 */

import { ImageOff } from "lucide-react";
import MarkdownIt, { type Token } from "markdown-it";
import { createElement, type ReactNode } from "react";

const parser = new MarkdownIt({ html: false, linkify: false, typographer: false });
/** Longer than this a file is no text for people. */
const MOST_TOKENS = 50_000;

const TAGS: Record<string, string> = {
  paragraph: "p",
  blockquote: "blockquote",
  bullet_list: "ul",
  ordered_list: "ol",
  list_item: "li",
  table: "table",
  thead: "thead",
  tbody: "tbody",
  tr: "tr",
  th: "th",
  td: "td",
  strong: "strong",
  em: "em",
  s: "s",
};
const LOOKS =
  "max-w-3xl px-5 py-4 text-[0.95rem] leading-relaxed break-words [&>:first-child]:mt-0 [&_a]:text-accent [&_a]:underline [&_blockquote]:mt-3 [&_blockquote]:border-l-4 [&_blockquote]:pl-4 [&_blockquote]:text-muted [&_code]:rounded [&_code]:bg-raised [&_code]:px-1 [&_h1]:mt-6 [&_h1]:border-b [&_h1]:pb-1.5 [&_h1]:text-2xl [&_h1]:font-bold [&_h2]:mt-6 [&_h2]:border-b [&_h2]:pb-1 [&_h2]:text-xl [&_h2]:font-bold [&_h3]:mt-5 [&_h3]:text-lg [&_h3]:font-semibold [&_h4]:mt-4 [&_h4]:font-semibold [&_hr]:my-5 [&_ol]:mt-3 [&_ol]:list-decimal [&_ol]:pl-6 [&_p]:mt-3 [&_pre]:mt-3 [&_pre]:overflow-x-auto [&_pre]:rounded-lg [&_pre]:bg-raised [&_pre]:p-3 [&_pre_code]:p-0 [&_table]:mt-4 [&_td]:border [&_td]:px-2.5 [&_td]:py-1 [&_th]:border [&_th]:bg-raised [&_th]:px-2.5 [&_th]:py-1 [&_ul]:mt-3 [&_ul]:list-disc [&_ul]:pl-6";
const HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6"];

/** The address of a link that may be followed; null for another. */
export function safeHref(href: string): string | null {
  try {
    const { protocol } = new URL(href);
    return protocol === "http:" || protocol === "https:" ? href : null;
  } catch {
    return null;
  }
}

export default function Markdown({ text }: { text: string }): ReactNode {
  const tokens = parser.parse(text, {});
  return <div className={LOOKS}>{elements(tokens.slice(0, MOST_TOKENS))}</div>;
}

interface Open {
  token: Token | null;
  children: ReactNode[];
}

/** Tokens come in order, an opening one and later its end: what is between them is its content. */
function elements(tokens: Token[]): ReactNode[] {
  const open: Open[] = [{ token: null, children: [] }];
  const add = (made: ReactNode): void => {
    const top = open.at(-1)?.children;
    top?.push(<Part key={top.length}>{made}</Part>);
  };
  for (const token of tokens) {
    if (token.nesting === 1) open.push({ token, children: [] });
    else if (token.nesting === -1) {
      const last = open.length > 1 ? open.pop() : undefined;
      if (last?.token) add(wrapped(last.token, last.children));
    } else add(leaf(token));
  }
  while (open.length > 1) {
    const last = open.pop();
    if (last?.token) add(wrapped(last.token, last.children));
  }
  return open[0]?.children ?? [];
}

function Part({ children }: { children: ReactNode }): ReactNode {
  return children;
}

function wrapped(token: Token, children: ReactNode[]): ReactNode {
  const kind = token.type.replace(/_open$/, "");
  if (kind === "link") return <Anchor href={String(token.attrGet("href") ?? "")}>{children}</Anchor>;
  if (kind === "heading" && HEADINGS.includes(token.tag)) return createElement(token.tag, {}, children);
  if (kind === "paragraph" && token.hidden) return children;
  if (kind === "ordered_list") return <ol start={Number(token.attrGet("start") ?? 1)}>{children}</ol>;
  if (kind === "table") {
    return (
      <div className="overflow-x-auto">
        <table>{children}</table>
      </div>
    );
  }
  const tag = Object.hasOwn(TAGS, kind) ? TAGS[kind] : undefined;
  return tag === undefined ? children : createElement(tag, {}, children);
}

function leaf(token: Token): ReactNode {
  switch (token.type) {
    case "inline":
      return elements(token.children ?? []);
    case "code_inline":
      return <code>{token.content}</code>;
    case "fence":
    case "code_block":
      return (
        <pre>
          <code>{token.content}</code>
        </pre>
      );
    case "hr":
      return <hr />;
    case "hardbreak":
      return <br />;
    case "softbreak":
      return "\n";
    case "image":
      return <Picture about={token.content} src={String(token.attrGet("src") ?? "")} />;
    default:
      return token.content;
  }
}

function Anchor({ href, children }: { href: string; children: ReactNode }): ReactNode {
  const safe = safeHref(href);
  if (safe === null) return <span title={href}>{children}</span>;
  return (
    <a href={safe} title={safe} target="_blank" rel="noreferrer">
      {children}
    </a>
  );
}

/** A picture by its words: it would be loaded from where the file says. */
function Picture({ about, src }: { about: string; src: string }): ReactNode {
  const name = about || src;
  return (
    <Anchor href={src}>
      <ImageOff aria-hidden className="mr-1 inline size-4" />
      {name}
    </Anchor>
  );
}
